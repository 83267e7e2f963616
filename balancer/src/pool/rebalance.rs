//! Which server has more than its share, and by how much. Pure.
//!
//! Chat connections live for hours, so a server that was added yesterday may still be nearly empty. One server is chosen at a time, the
//! one that is furthest above its share, and it is left alone once it is within the tolerance: moving a client costs it a reconnect, so
//! the last few percent are not worth it.

/// What one server has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Its share of new connections, in any unit.
    pub(crate) share: u32,
    /// Connections it has.
    pub(crate) active: u64,
}

/// The position of the server that is furthest above its fair share of all connections, and how many connections it has beyond that share
/// and `tolerance` (a share of the share). `None` if there is none, or nowhere to go.
pub(crate) fn most_loaded(loads: &[Load], tolerance: f64) -> Option<(usize, u64)> {
    let shares: u64 = loads.iter().map(|load| u64::from(load.share)).sum();
    let all: u64 = loads.iter().map(|load| load.active).sum();
    if shares == 0 || loads.iter().filter(|load| load.share > 0).count() < 2 {
        return None;
    }
    let fair = |load: &Load| all as f64 * f64::from(load.share) / shares as f64;
    loads
        .iter()
        .enumerate()
        .filter(|(_, load)| load.share > 0)
        .filter_map(|(index, load)| {
            // Whole connections: half a connection above is not above.
            let limit = (fair(load) * (1.0 + tolerance)).ceil();
            let excess = load.active as f64 - limit;
            (excess >= 1.0).then_some((index, excess, load.active as f64 / fair(load)))
        })
        .max_by(|(_, _, left), (_, _, right)| left.total_cmp(right))
        .map(|(index, excess, _)| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "at least 1 and at most the number of connections"
            )]
            let excess = excess as u64;
            (index, excess)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(of: &[(u32, u64)]) -> Vec<Load> {
        of.iter().map(|(share, active)| Load { share: *share, active: *active }).collect()
    }

    #[test]
    fn the_most_loaded_gives_what_is_beyond_its_share_and_the_tolerance() {
        assert_eq!(most_loaded(&loads(&[(1, 100), (1, 80), (1, 0)]), 0.1), Some((0, 34)));
        assert_eq!(most_loaded(&loads(&[(1, 60), (1, 60), (1, 60)]), 0.0), None);
        assert_eq!(most_loaded(&loads(&[(1, 65), (1, 58), (1, 57)]), 0.1), None);
        // By weight.
        assert_eq!(most_loaded(&loads(&[(2, 100), (1, 50)]), 0.0), None);
        assert_eq!(most_loaded(&loads(&[(1, 100), (2, 50)]), 0.0), Some((0, 50)));
    }

    #[test]
    fn nothing_moves_without_a_place_to_go() {
        assert_eq!(most_loaded(&[], 0.1), None);
        assert_eq!(most_loaded(&loads(&[(1, 100)]), 0.1), None);
        assert_eq!(most_loaded(&loads(&[(1, 100), (0, 0)]), 0.1), None);
        // One connection among three servers is no imbalance.
        assert_eq!(most_loaded(&loads(&[(1, 1), (1, 0), (1, 0)]), 0.1), None);
    }

    #[test]
    fn it_comes_to_rest() {
        let mut servers = loads(&[(100, 1_000), (100, 900), (50, 0), (100, 0)]);
        let mut moved = 0;
        while let Some((from, _)) = most_loaded(&servers, 0.1) {
            servers[from].active -= 1;
            let to = (0..servers.len())
                .min_by_key(|to| servers[*to].active * 100 / u64::from(servers[*to].share))
                .unwrap();
            servers[to].active += 1;
            moved += 1;
            assert!(moved < 2_000, "{servers:?}");
        }
        assert!(moved < 850, "{moved} of 1,900 moved for a server and a half");
    }
}
