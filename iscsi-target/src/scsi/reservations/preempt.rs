//! PREEMPT and PREEMPT AND ABORT (SPC-4 clauses 5.12.11.4 and 5.12.11.5), and what an administrator may take away.
//!
//! | reservation | key to preempt | what happens |
//! |---|---|---|
//! | none | 0 | 5/26/00 |
//! | none | a key | registrations with it go |
//! | held by one | 0 | 5/26/00 |
//! | held by one | the holder's key | registrations with it go, and the reservation is the sender's |
//! | held by one | another key | registrations with it go |
//! | all registrants | 0 | all other registrations go, and the reservation is the sender's |
//! | all registrants | a key | registrations with it go, and the reservation with the last of them |
//!
//! A key that nobody has is a conflict.

use super::order::Order;
use super::state::{CONFLICT, ItNexus, Kind, Outcome, Registration, Reservation, Reservations};
use crate::scsi::{Failure, Sense};

impl Reservations {
    pub(super) fn preempt(
        &self,
        own: &ItNexus,
        victim: u64,
        abort: bool,
        order: &Order,
    ) -> Result<Outcome, Failure> {
        let holders_key = match &self.reservation {
            Some(Reservation { holder: Some(holder), .. }) => self.key_of(holder),
            // 0 stands for all who hold it.
            Some(Reservation { holder: None, .. }) => Some(0),
            None => None,
        };
        let mut outcome = if holders_key == Some(victim) {
            self.seize(own, victim, order.kind()?)
        } else if victim == 0 {
            return Err(Sense::INVALID_PARAMETER.into());
        } else {
            self.expel(Some(own), victim).ok_or(CONFLICT)?
        };
        if !abort {
            outcome.aborted.clear();
        }
        Ok(outcome)
    }

    /// The reservation becomes the sender's; those who lose it are told, the others if they now have another one.
    fn seize(&self, own: &ItNexus, victim: u64, kind: Kind) -> Outcome {
        let loses = |registration: &&Registration| {
            registration.nexus != *own && (victim == 0 || registration.key == victim)
        };
        let aborted: Vec<ItNexus> =
            self.registrations.iter().filter(loses).map(|registration| registration.nexus.clone()).collect();
        let mut next = self.counted();
        next.registrations.retain(|registration| !loses(&registration));
        next.reservation = Some(Reservation { kind, holder: (!kind.all_registrants()).then(|| own.clone()) });
        let mut told: Vec<_> =
            aborted.iter().map(|nexus| (nexus.clone(), Sense::REGISTRATIONS_PREEMPTED)).collect();
        if self.reservation.as_ref().is_some_and(|old| old.kind != kind) {
            told.extend(next.tell_others(own, Sense::RESERVATIONS_RELEASED));
        }
        Outcome { next, told, aborted }
    }

    /// Registrations with this key go, the sender's too if it is his. None if nobody has it.
    fn expel(&self, own: Option<&ItNexus>, victim: u64) -> Option<Outcome> {
        let (gone, left): (Vec<_>, Vec<_>) =
            self.registrations.iter().cloned().partition(|registration| registration.key == victim);
        if gone.is_empty() {
            return None;
        }
        let aborted: Vec<ItNexus> = gone.into_iter().map(|registration| registration.nexus).collect();
        let told = aborted
            .iter()
            .filter(|nexus| Some(*nexus) != own)
            .map(|nexus| (nexus.clone(), Sense::REGISTRATIONS_PREEMPTED))
            .collect();
        let mut next = Self { registrations: left, ..self.counted() };
        if next.registrations.is_empty() {
            next.reservation = None;
        }
        Some(Outcome { next, told, aborted })
    }

    /// What is left when an administrator has taken a key away. None if nobody has it.
    pub fn without(&self, key: u64) -> Option<Self> {
        self.purge(key).map(|outcome| outcome.next)
    }

    /// Take all registrations with a key away, as an administrator may, and the reservation if it was theirs. None if
    /// nobody has it.
    pub(crate) fn purge(&self, key: u64) -> Option<Outcome> {
        let mut outcome = self.expel(None, key)?;
        let orphaned = match &self.reservation {
            Some(Reservation { holder: Some(holder), kind }) if self.key_of(holder) == Some(key) => {
                Some(*kind)
            }
            _ => None,
        };
        if let Some(kind) = orphaned {
            outcome.next.reservation = None;
            if kind.registrants_share() {
                let left = outcome.next.registrations.iter();
                outcome.told.extend(left.map(|l| (l.nexus.clone(), Sense::RESERVATIONS_RELEASED)));
            }
        }
        Some(outcome)
    }
}
