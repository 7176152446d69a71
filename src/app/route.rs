//! What would become of a request under a configuration that nothing runs by.

use crate::admin;
use crate::admin::wire::{Problem, Question, RouteAnswer};
use crate::config::Settings;
use crate::domain::snapshot::Snapshot;
use crate::domain::state::State;

/// Explains offline: with the weights of the file, and with those endpoints that are given as addresses, all healthy.
/// No name is looked up.
pub fn explain(mut settings: Settings, question: &Question) -> Result<RouteAnswer, Problem> {
    let authorities = super::authorities(&settings.services);
    settings.services.iter_mut().for_each(|service| service.health_check = None);
    let mut state = State::of(settings.services);
    for authority in &authorities {
        if let Ok(address) = authority.parse() {
            state.resolve(authority, vec![address]);
        }
    }
    admin::explain(&Snapshot::of(&state, &Snapshot::default()), question)
}
