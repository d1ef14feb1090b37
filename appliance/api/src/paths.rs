//! Where does the API answer what? The routes as axum writes them, and the same with names filled in.

/// `GET`: [`Status`](crate::status::Status).
pub const STATUS: &str = "/v1/status";
/// `GET`, query [`EventQuery`](crate::event::EventQuery): [`Events`](crate::event::Events).
pub const EVENTS: &str = "/v1/events";
/// `GET`: [`Disks`](crate::disk::Disks).
pub const DISKS: &str = "/v1/disks";
/// `GET`: [`Arrays`](crate::array::Arrays); `POST` [`CreateArray`](crate::array::CreateArray).
pub const ARRAYS: &str = "/v1/arrays";
/// `POST` [`StartArrays`](crate::array::StartArrays): [`Started`](crate::array::Started).
pub const START: &str = "/v1/start";
/// `GET`: one [`Array`](crate::array::Array); `DELETE`.
pub const ARRAY: &str = "/v1/arrays/{array}";
/// `POST`.
pub const ARRAY_STOP: &str = "/v1/arrays/{array}/stop";
/// `POST` [`MemberChange`](crate::array::MemberChange).
pub const ARRAY_FAIL: &str = "/v1/arrays/{array}/fail";
/// `POST` [`MemberChange`](crate::array::MemberChange).
pub const ARRAY_REMOVE: &str = "/v1/arrays/{array}/remove";
/// `POST` [`MemberChange`](crate::array::MemberChange).
pub const ARRAY_ADD: &str = "/v1/arrays/{array}/add";
/// `GET`: [`Volumes`](crate::volume::Volumes); `POST` [`CreateVolume`](crate::volume::CreateVolume).
pub const VOLUMES: &str = "/v1/volumes";
/// `PATCH` [`ResizeVolume`](crate::volume::ResizeVolume); `DELETE`.
pub const VOLUME: &str = "/v1/volumes/{array}/{volume}";
/// `GET`: [`Targets`](crate::target::Targets); `POST` [`CreateTarget`](crate::target::CreateTarget).
pub const TARGETS: &str = "/v1/targets";
/// `DELETE`.
pub const TARGET: &str = "/v1/targets/{iqn}";
/// `POST` [`AccessChange`](crate::target::AccessChange).
pub const TARGET_ALLOW: &str = "/v1/targets/{iqn}/allow";
/// `POST` [`AccessChange`](crate::target::AccessChange).
pub const TARGET_DENY: &str = "/v1/targets/{iqn}/deny";
/// `PUT` [`SetChap`](crate::target::SetChap); `POST` [`ChapAccount`](crate::target::ChapAccount): one more, or another secret.
pub const TARGET_CHAP: &str = "/v1/targets/{iqn}/chap";
/// `DELETE`, query [`RemoveAccount`](crate::target::RemoveAccount).
pub const TARGET_ACCOUNT: &str = "/v1/targets/{iqn}/chap/{user}";
/// PUT.
pub const TARGET_STATE: &str = "/v1/targets/{iqn}/state";
/// `GET`: [`Luns`](crate::target::Luns); `POST` [`MapLun`](crate::target::MapLun): [`Mapped`](crate::target::Mapped).
pub const LUNS: &str = "/v1/luns";
/// `DELETE`, query [`LunPlace`](crate::target::LunPlace).
pub const LUN: &str = "/v1/targets/{iqn}/luns/{lun}";
/// `PUT`: the initiator sees only LUNs of its own. `DELETE`, query [`Unmask`](crate::target::Unmask): what all see.
pub const MASK: &str = "/v1/targets/{iqn}/masks/{initiator}";
/// `GET`: [`Portals`](crate::portal::Portals).
pub const PORTALS: &str = "/v1/portals";
/// `GET`: [`Sessions`](crate::target::Sessions).
pub const SESSIONS: &str = "/v1/sessions";
/// `DELETE`.
pub const SESSION: &str = "/v1/sessions/{session}";

/// `GET`, query [`ReservationQuery`](crate::reservation::ReservationQuery): [`Reservations`](crate::reservation::Reservations).
pub const RESERVATIONS: &str = "/v1/reservations";
/// `DELETE`: all registrations of a volume, also where they cannot be read.
pub const VOLUME_RESERVATIONS: &str = "/v1/reservations/{array}/{volume}";
/// `DELETE`: those with a key.
pub const RESERVATION: &str = "/v1/reservations/{array}/{volume}/{key}";

/// A route with its `{placeholders}` replaced, in order, by these names, percent-encoded.
pub fn fill(route: &str, names: &[&str]) -> String {
    let mut names = names.iter();
    let mut path = String::new();
    for segment in route.split('/').skip(1) {
        path.push('/');
        if segment.starts_with('{') {
            push_encoded(&mut path, names.next().copied().unwrap_or_default());
        } else {
            path.push_str(segment);
        }
    }
    path
}

/// Append a name percent-encoded for a path segment or a query value (RFC 3986 section 2.3).
pub fn push_encoded(path: &mut String, name: &str) {
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in_and_cannot_leave_their_segment() {
        assert_eq!(fill(STATUS, &[]), "/v1/status");
        assert_eq!(
            fill(LUN, &["iqn.2026-11.org.labsan:demo", "0"]),
            "/v1/targets/iqn.2026-11.org.labsan:demo/luns/0"
        );
        assert_eq!(fill(ARRAY, &["../a b?"]), "/v1/arrays/..%2Fa%20b%3F");
    }
}
