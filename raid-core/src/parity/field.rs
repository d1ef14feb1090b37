//! GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1 (0x11d), generator 2. Tables are built by the compiler.

const POLYNOMIAL: u16 = 0x11d;

const fn tables() -> ([u8; 512], [u8; 256]) {
    let mut powers = [0u8; 512];
    let mut logs = [0u8; 256];
    let mut value: u16 = 1;
    let mut exponent = 0;
    while exponent < 255 {
        powers[exponent] = value as u8;
        powers[exponent + 255] = value as u8;
        logs[value as usize] = exponent as u8;
        value <<= 1;
        if value & 0x100 != 0 {
            value ^= POLYNOMIAL;
        }
        exponent += 1;
    }
    (powers, logs)
}

const TABLES: ([u8; 512], [u8; 256]) = tables();

/// g^`exponent`.
pub const fn power(exponent: usize) -> u8 {
    TABLES.0[exponent % 255]
}

/// The product of two elements.
pub const fn multiply(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    TABLES.0[TABLES.1[a as usize] as usize + TABLES.1[b as usize] as usize]
}

/// The element that gives 1 with `a`; zero has none and gives 0.
pub const fn inverse(a: u8) -> u8 {
    if a == 0 {
        return 0;
    }
    TABLES.0[255 - TABLES.1[a as usize] as usize]
}

/// The products of `factor` with every low nibble and every high nibble: what a byte shuffle looks up.
pub const fn nibble_products(factor: u8) -> ([u8; 16], [u8; 16]) {
    let mut low = [0; 16];
    let mut high = [0; 16];
    let mut nibble = 0;
    while nibble < 16 {
        low[nibble as usize] = multiply(factor, nibble);
        high[nibble as usize] = multiply(factor, nibble << 4);
        nibble += 1;
    }
    (low, high)
}
