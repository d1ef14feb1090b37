//! labsand, the daemon: arrays, volumes and targets wired together behind one control API.

fn main() -> std::process::ExitCode {
    appliance::run()
}
