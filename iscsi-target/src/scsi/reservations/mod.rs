//! Persistent reservations (SPC-4 clauses 5.12, 6.15 and 6.16): who is registered with a logical unit, who holds it, and what
//! a PERSISTENT RESERVE OUT makes of that. Pure: [`Reservations::apply`] takes the state and an order and gives the next
//! state, or a refusal that leaves all as it was. The logical unit makes it durable and public (`reserving.rs`).
//!
//! A registration belongs to an I_T nexus by name (initiator, ISID, target, portal group), so it outlives sessions: the same
//! initiator port that logs in again still has it.
//!
//! Invariants, kept by every order:
//! - keys are not 0, and no nexus is registered twice;
//! - the holder of a reservation is registered; of the all-registrants types every registrant is a holder, and there is one.
//!
//! | reservation | other registrants | everybody else |
//! |---|---|---|
//! | 1 Write Exclusive | read | read |
//! | 3 Exclusive Access | nothing | nothing |
//! | 5 Write Exclusive, Registrants Only; 7 All Registrants | everything | read |
//! | 6 Exclusive Access, Registrants Only; 8 All Registrants | everything | nothing |

mod answers;
mod order;
mod preempt;
mod record;
mod register;
mod state;
mod transport_id;

pub(crate) use answers::{Capabilities, answer};
pub(crate) use order::Order;
pub use record::{BadRecord, RegistrationRecord, ReservationRecord, ReservedRecord};
pub(crate) use state::{Around, Legacy, Outcome};
pub use state::{ItNexus, Kind, PortName, Registration, Reservation, Reservations};
pub(crate) use transport_id::TransportId;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
