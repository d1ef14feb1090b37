//! Reservations on a live logical unit: persistent ones are made durable, then public; those of SPC-2 beside them.
//!
//! Orders of PERSISTENT RESERVE OUT run one at a time: plan ([`Reservations::apply`]), keep what APTPL asks to be kept, and
//! only then let it count. If it cannot be kept, the order fails and nothing has changed. From the moment it counts, the
//! gates keep new commands out, and before it is answered those that had passed them are over: waited for, or ended by
//! PREEMPT AND ABORT (`server/management.rs`). Until then nobody is told what is registered either: whoever finds a node gone
//! from the list may take over what it wrote to.

use std::sync::Arc;

use super::cdb::Cdb;
use super::command_table::{Class, Command, Operation};
use super::keeping::StoreFailed;
use super::logical_unit::State;
use super::reservations::{
    Around, Capabilities, ItNexus, Legacy, Order, Outcome, PortName, Reservations, answer,
};
use super::{Failure, LogicalUnit, Nexus, Preempted, ScsiCommand, ScsiResponse, Sense, Status, TargetPort};

impl State {
    /// Does a reservation of somebody else stand in the way?
    pub(super) fn keeps_out(&self, nexus: &Nexus, command: &Command, cdb: Cdb<'_>) -> bool {
        if let Some(holder) = &self.reserved_by {
            // SPC-2 clause 5.5.1: what informs passes, RELEASE does nothing, and persistent ones exclude these.
            return match command.operation {
                Operation::Inquiry | Operation::ReportLuns | Operation::RequestSense | Operation::Release => {
                    false
                }
                _ => holder != nexus || command.class == Class::Persistent,
            };
        }
        !self.reservations.admits(nexus, command.class, cdb)
    }
}

impl LogicalUnit {
    /// What is registered and reserved.
    pub fn reservations(&self) -> Reservations {
        self.state().reservations.clone()
    }

    /// Take all registrations with this key away, as an administrator may. Gives how many there were.
    pub async fn purge(&self, key: u64) -> Result<usize, StoreFailed> {
        let _turn = self.turn_of_orders().await;
        let before = self.reservations();
        let Some(outcome) = before.purge(key) else { return Ok(0) };
        let count = before.registrations.len() - outcome.next.registrations.len();
        self.bring_into_force(&before, outcome).await?;
        self.writes_over().await;
        Ok(count)
    }

    /// Returns when no write that passed the gates by now is under way any more.
    pub(crate) async fn writes_over(&self) {
        drop(self.turn().write().await);
    }

    /// PERSISTENT RESERVE OUT.
    pub(crate) async fn persistent_out(
        self: &Arc<Self>,
        nexus: &Nexus,
        cdb: Cdb<'_>,
        command: &ScsiCommand,
    ) -> Result<ScsiResponse, Failure> {
        let order = Order::parse(cdb, &command.data_out)?;
        let turn = self.order_turn(command).await?;
        let (before, outcome) = self.planned(nexus, &order)?;
        let nexuses = outcome.aborted.clone();
        // Who is no longer on the list must not write any more either: others may take over.
        let is_shorter = outcome.next.registrations.len() < before.registrations.len();
        self.bring_into_force(&before, outcome).await.map_err(Sense::from)?;
        let good = ScsiResponse { data_out_wanted: cdb.u32(5).into(), ..ScsiResponse::good() };
        if nexuses.is_empty() {
            if is_shorter || order.takes_rights_away() {
                self.writes_over().await;
            }
            return Ok(good);
        }
        let preempted = Preempted { unit: Arc::clone(self), nexuses, _turn: Arc::new(turn) };
        Ok(ScsiResponse { preempted: Some(preempted), ..good })
    }

    /// PERSISTENT RESERVE IN. What is told is so in every respect: no order is half done.
    pub(super) async fn persistent_in(
        &self,
        cdb: Cdb<'_>,
        command: &ScsiCommand,
    ) -> Result<ScsiResponse, Failure> {
        let _turn = self.order_turn(command).await?;
        let capabilities = Capabilities { can_persist: self.shared.keeping.can() };
        Ok(answer(cdb, &self.state().reservations, capabilities)?)
    }

    fn planned(&self, nexus: &Nexus, order: &Order) -> Result<(Reservations, Outcome), Failure> {
        let name = |port: &TargetPort, portal_group: u16| PortName {
            target_name: port.target().to_owned(),
            portal_group,
            relative: port.number(),
        };
        let of_port = |port: &Arc<TargetPort>| {
            port.groups().into_iter().map(|group| name(port, group)).collect::<Vec<_>>()
        };
        let ports: Vec<PortName> = self.each_port().iter().flat_map(of_port).collect();
        let state = self.state();
        if state.reserved_by.is_some() {
            // Since this order passed the gates.
            return Err(Failure::Status(Status::ReservationConflict));
        }
        let known: Vec<ItNexus> = state.attentions.nexuses().map(ItNexus::from).collect();
        let around = Around { ports: &ports, known: &known, can_persist: self.shared.keeping.can() };
        let outcome = state.reservations.apply(nexus, order, around)?;
        Ok((state.reservations.clone(), outcome))
    }

    /// Durable, then public. The caller has the turn, so that `before` is what is kept now.
    async fn bring_into_force(&self, before: &Reservations, outcome: Outcome) -> Result<(), StoreFailed> {
        if outcome.next.record() != before.record() {
            self.keep(&outcome.next, self.sanitizing().record()).await?;
        }
        let mut state = self.state();
        state.reservations = outcome.next;
        for (nexus, sense) in &outcome.told {
            state.attentions.raise_for(nexus, *sense);
        }
        self.make_exceptional();
        Ok(())
    }

    /// RESERVE(6) and RESERVE(10).
    pub(super) async fn reserve(
        &self,
        nexus: &Nexus,
        cdb: Cdb<'_>,
        command: &ScsiCommand,
    ) -> Result<ScsiResponse, Failure> {
        // Extents and third parties are obsolete.
        if cdb.byte(1) & 0x1f != 0 {
            return Err(Sense::INVALID_FIELD.into());
        }
        // A registration that is being made durable counts already: the two kinds exclude each other.
        let _turn = self.order_turn(command).await?;
        self.reserve_now(nexus)?;
        self.writes_over().await;
        Ok(ScsiResponse::good())
    }

    fn reserve_now(&self, nexus: &Nexus) -> Result<(), Failure> {
        let mut state = self.state();
        match state.reservations.legacy(nexus) {
            Legacy::Ignored => {}
            Legacy::Conflict => return Err(Failure::Status(Status::ReservationConflict)),
            Legacy::Processed => {
                if state.reserved_by.as_ref().is_some_and(|holder| holder != nexus) {
                    return Err(Failure::Status(Status::ReservationConflict));
                }
                state.reserved_by = Some(nexus.clone());
                self.make_exceptional();
            }
        }
        Ok(())
    }

    /// RELEASE(6) and RELEASE(10). Releasing what one does not hold is no error (SPC-2).
    pub(super) fn release(&self, nexus: &Nexus) -> Result<ScsiResponse, Failure> {
        let mut state = self.state();
        if state.reserved_by.as_ref() == Some(nexus) {
            state.reserved_by = None;
        } else if state.reservations.legacy(nexus) == Legacy::Conflict {
            return Err(Failure::Status(Status::ReservationConflict));
        }
        Ok(ScsiResponse::good())
    }
}
