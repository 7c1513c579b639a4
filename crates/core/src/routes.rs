//! What a channel remembers of routes: publishers repeat themselves. All of it holds as long as topology, queues and
//! permissions stay as they are.

use crate::topology::ExchangeId;
use hornpipe_types::Map;
use hornpipe_types::ids::QueueId;
use hornpipe_types::names::ShortStr;
use std::sync::Arc;

/// Most routes that are remembered.
const MOST: usize = 1024;
/// So many routes for which there was no room begin anew: those that are remembered may be of no use any more. A publisher
/// with more keys than there is room for pays for remembering one route in eight in vain.
const PASSED_BY_MOST: usize = 8 * MOST;

/// A route that was resolved before, with its permission check.
#[derive(Debug, Clone)]
pub(crate) struct CachedRoute {
    pub(crate) exchange: ExchangeId,
    pub(crate) queues: Arc<[QueueId]>,
}

/// Generations of everything a route depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RouteGeneration {
    pub(crate) topology: u64,
    pub(crate) queues: u64,
    pub(crate) access: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    generation: RouteGeneration,
    known: Map<Box<[u8]>, CachedRoute>,
    passed_by: usize,
    /// The exchange last published to, if the channel may publish to it with any key and the key alone decides.
    open: Option<(ShortStr, ExchangeId)>,
}

impl Routes {
    /// Forgets everything when something it depends on has changed.
    pub(crate) fn refresh(&mut self, generation: RouteGeneration) {
        if self.generation != generation {
            self.known.clear();
            (self.generation, self.passed_by, self.open) = (generation, 0, None);
        }
    }

    pub(crate) fn get(&self, route: &[u8]) -> Option<&CachedRoute> {
        self.known.get(route)
    }

    pub(crate) fn insert(&mut self, route: &[u8], cached: CachedRoute) {
        if self.known.len() >= MOST {
            self.passed_by += 1;
            if self.passed_by < PASSED_BY_MOST {
                return;
            }
            self.known.clear();
            self.passed_by = 0;
        }
        self.known.insert(route.into(), cached);
    }

    /// The exchange of that name, if nothing but the routing key is left to look at.
    pub(crate) fn open(&self, exchange: &str) -> Option<ExchangeId> {
        self.open.as_ref().filter(|(name, _)| name == exchange).map(|(_, id)| *id)
    }

    pub(crate) fn set_open(&mut self, exchange: &str, id: ExchangeId) {
        self.open = Some((ShortStr::new(exchange), id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(routes: &mut Routes, n: usize) {
        routes.insert(&n.to_be_bytes(), CachedRoute { exchange: ExchangeId(0), queues: Arc::new([]) });
    }

    #[test]
    fn too_many_routes_are_passed_by_until_it_is_time_for_others() {
        let mut routes = Routes::default();
        (0..MOST + PASSED_BY_MOST - 1).for_each(|n| put(&mut routes, n));
        assert!(routes.get(&0usize.to_be_bytes()).is_some());
        assert!(routes.get(&(MOST + 1).to_be_bytes()).is_none());
        put(&mut routes, 1_000_000);
        assert!(routes.get(&0usize.to_be_bytes()).is_none());
        assert!(routes.get(&1_000_000usize.to_be_bytes()).is_some());
        assert_eq!(routes.known.len(), 1);
    }

    #[test]
    fn a_change_forgets_routes_and_exchange() {
        let mut routes = Routes::default();
        put(&mut routes, 1);
        routes.set_open("x", ExchangeId(3));
        routes.refresh(RouteGeneration::default());
        assert_eq!((routes.open("x"), routes.open("y")), (Some(ExchangeId(3)), None));
        routes.refresh(RouteGeneration { access: 1, ..RouteGeneration::default() });
        assert!(routes.open("x").is_none() && routes.get(&1usize.to_be_bytes()).is_none());
    }
}
