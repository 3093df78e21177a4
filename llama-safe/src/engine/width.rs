//! How many sequences a decode step should take, by what steps cost. Plain numbers, no llama.cpp.
#![forbid(unsafe_code)]

use std::iter;
use std::time::Duration;

use crate::error::StepCostsError;

/// What a decode step costs at each number of rows, a token of a sequence each: measured, or known from elsewhere.
///
/// A step with more rows takes longer, but seldom as many times as long as it has more rows: the weights are read once for all
/// of them. How much is gained depends on the machine and on the kind of the weights, and it can be less than nothing. Here
/// two rows cost more than twice as much as one, and eight less than four times as much:
///
/// ```
/// use std::time::Duration;
/// use llama_safe::StepCosts;
///
/// # fn main() -> Result<(), llama_safe::StepCostsError> {
/// let costs = StepCosts::new([
///     (1, Duration::from_millis(7)),
///     (2, Duration::from_millis(17)),
///     (4, Duration::from_millis(22)),
///     (8, Duration::from_millis(28)),
/// ])?;
/// assert_eq!(costs.of(6), Duration::from_millis(25));
/// assert_eq!(costs.groups(2), [1, 1]);
/// assert_eq!(costs.groups(8), [8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct StepCosts {
    /// By width, each once; never empty.
    points: Vec<(u32, Duration)>,
    /// For 0 sequences, 1, and so on to `PLANNED`.
    plans: Vec<Plan>,
}

/// How to decode one token of each of some sequences.
#[derive(Clone, PartialEq, Debug)]
struct Plan {
    /// Sequences of each step, most first.
    groups: Vec<u32>,
    /// Of all steps.
    seconds: f64,
}

/// The most sequences that groups are searched for: no llama.cpp context has more.
const PLANNED: u32 = 256;

/// What is not worth another step, or another sequence: costs are not measured more closely.
const WORTHLESS: f64 = 0.02;

/// What more sequences must gain in speed, so that each may get slower for it.
const WORTHWHILE: f64 = 0.05;

impl StepCosts {
    /// Takes the time that a step takes at some numbers of rows, in any order.
    ///
    /// # Errors
    ///
    /// [`StepCostsError`] if there are none, if a number of rows is zero or there twice, or if a time is zero.
    pub fn new(points: impl IntoIterator<Item = (u32, Duration)>) -> Result<Self, StepCostsError> {
        let mut points: Vec<_> = points.into_iter().collect();
        points.sort_unstable();
        if points.is_empty() {
            return Err(StepCostsError::Empty);
        }
        if points[0].0 == 0 {
            return Err(StepCostsError::ZeroWidth);
        }
        if let Some(&(width, _)) = points.iter().find(|(_, cost)| cost.is_zero()) {
            return Err(StepCostsError::ZeroDuration { width });
        }
        if let Some(pair) = points.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(StepCostsError::Twice { width: pair[0].0 });
        }
        let seconds: Vec<f64> = (0..=PLANNED).map(|width| seconds(&points, width)).collect();
        Ok(Self { plans: plans(&seconds), points })
    }

    /// What was given: rows, and the time of a step, by rows.
    #[must_use]
    pub fn points(&self) -> &[(u32, Duration)] {
        &self.points
    }

    /// The time of a step of `width` rows.
    ///
    /// Between the given numbers of rows on a straight line. Below the first in proportion to it. Beyond the last as between the
    /// last two, or in proportion where only one was given, but never less than the last.
    #[must_use]
    pub fn of(&self, width: u32) -> Duration {
        match self.points.binary_search_by_key(&width, |(width, _)| *width) {
            Ok(at) => self.points[at].1,
            Err(_) => Duration::try_from_secs_f64(seconds(&self.points, width)).unwrap_or(Duration::MAX),
        }
    }

    /// How to cut `running` sequences into groups, each decoded in a step of its own, so that one token of each costs the least
    /// in total: the number of sequences of each group, most first.
    ///
    /// Of what costs the same within 2 %, it is the fewest groups, as equal as they can be at that cost. More than 256
    /// sequences are cut into groups of 256 and the rest, each cut further as it would be alone.
    #[must_use]
    pub fn groups(&self, running: u32) -> Vec<u32> {
        let (times, rest) = (running / PLANNED, running % PLANNED);
        let whole = iter::repeat_n(PLANNED, times as usize);
        let mut groups: Vec<u32> = whole.chain([rest]).flat_map(|part| &self.plan(part).groups).copied().collect();
        groups.sort_unstable_by(|a, b| b.cmp(a));
        groups
    }

    /// Tokens that `running` sequences get in a second, in these [groups](Self::groups).
    ///
    /// Never less than what one sequence gets alone, but for the 2 % that another step has to save.
    #[must_use]
    pub fn tokens_per_second(&self, running: u32) -> f64 {
        if running == 0 {
            return 0.0;
        }
        let (times, rest) = (running / PLANNED, running % PLANNED);
        let seconds = f64::from(times) * self.plan(PLANNED).seconds + self.plan(rest).seconds;
        f64::from(running) / seconds
    }

    /// How many sequences to run while `waiting` more requests wait: `asked`, or up to `waiting` more where that makes at least
    /// 5 % more tokens a second. Then it is the smallest number that comes within 2 % of the most that can be had. Never more
    /// than `most`.
    #[must_use]
    pub fn wider(&self, asked: u32, most: u32, waiting: u32) -> u32 {
        let asked = asked.min(most);
        let worthwhile = self.tokens_per_second(asked) * (1.0 + WORTHWHILE);
        // Beyond what groups are searched for nothing gets faster.
        let last = most.min(asked.saturating_add(waiting)).min(PLANNED);
        let rates = || (asked.saturating_add(1)..=last).map(|running| (running, self.tokens_per_second(running)));
        let near_best = rates().map(|(_, rate)| rate).fold(0.0, f64::max) * (1.0 - WORTHLESS);
        rates().find(|(_, rate)| *rate >= worthwhile && *rate >= near_best).map_or(asked, |(running, _)| running)
    }

    fn plan(&self, running: u32) -> &Plan {
        &self.plans[running as usize]
    }
}

/// The time of a step, from the times of some: see [`StepCosts::of`].
fn seconds(points: &[(u32, Duration)], width: u32) -> f64 {
    let at = |index: usize| (f64::from(points[index].0), points[index].1.as_secs_f64());
    let above = points.partition_point(|(other, _)| *other < width);
    let (from, to) = match above.min(points.len() - 1) {
        0 => ((0.0, 0.0), at(0)),
        above => (at(above - 1), at(above)),
    };
    let mut slope = (to.1 - from.1) / (to.0 - from.0);
    if above == points.len() {
        slope = slope.max(0.0);
    }
    // From the nearer end, so that what was given comes out as it was.
    to.1 + slope * (f64::from(width) - to.0)
}

/// The groups for each number of sequences, from the time of a step of each number of rows.
fn plans(seconds: &[f64]) -> Vec<Plan> {
    let most = seconds.len() - 1;
    let mut limits = vec![0.0; most + 1];
    for running in 1..=most {
        let parts = 1..=running;
        limits[running] = parts.map(|part| seconds[part] + limits[running - part]).fold(f64::INFINITY, f64::min);
    }
    limits.iter_mut().for_each(|least| *least *= 1.0 + WORTHLESS);

    let mut plans: Vec<Option<Plan>> = vec![None; most + 1];
    plans[0] = Some(Plan { groups: Vec::new(), seconds: 0.0 });
    // What a number of sequences costs in as many groups as have been looked at, and what was cut off for that, by groups.
    let mut costs = vec![f64::INFINITY; most + 1];
    costs[0] = 0.0;
    let mut cuts: Vec<Vec<usize>> = Vec::new();
    while plans.iter().any(Option::is_none) {
        let groups = cuts.len() + 1;
        let mut cheapest = vec![(f64::INFINITY, 0); most + 1];
        for running in groups..=most {
            for part in 1..=running {
                let cost = costs[running - part] + seconds[part];
                if cost < cheapest[running].0 {
                    cheapest[running] = (cost, part);
                }
            }
        }
        costs = cheapest.iter().map(|(cost, _)| *cost).collect();
        cuts.push(cheapest.into_iter().map(|(_, part)| part).collect());
        for running in groups..=most {
            if plans[running].is_none() && costs[running] <= limits[running] {
                plans[running] = Some(plan(seconds, running, limits[running], &cuts));
            }
        }
    }
    plans.into_iter().flatten().collect()
}

/// As many groups as there are `cuts`: equal ones if their cost is within the limit, and else the cheapest.
fn plan(seconds: &[f64], running: usize, limit: f64, cuts: &[Vec<usize>]) -> Plan {
    let cost = |groups: &[usize]| groups.iter().map(|width| seconds[*width]).sum::<f64>();
    let mut groups: Vec<usize> = (0..cuts.len()).map(|index| (running + index) / cuts.len()).collect();
    if cost(&groups) > limit {
        let mut left = running;
        groups.clear();
        for cut in cuts.iter().rev() {
            groups.push(cut[left]);
            left -= cut[left];
        }
    }
    groups.sort_unstable_by(|a, b| b.cmp(a));
    Plan { seconds: cost(&groups), groups: groups.into_iter().map(|width| width as u32).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// From tokens a second over all sequences, as benchmarks have it.
    fn measured(rates: &[(u32, f64)]) -> StepCosts {
        StepCosts::new(rates.iter().map(|(width, rate)| (*width, Duration::from_secs_f64(f64::from(*width) / rate))))
            .unwrap()
    }

    /// The 135M shape on two cores.
    fn q8_0() -> StepCosts {
        measured(&[(1, 137.0), (2, 115.0), (4, 183.0), (8, 278.0), (16, 349.0), (32, 416.0)])
    }

    fn q4_0() -> StepCosts {
        measured(&[(1, 160.0), (2, 186.0), (4, 261.0), (8, 326.0), (16, 422.0), (32, 441.0)])
    }

    fn millis(points: &[(u32, u64)]) -> StepCosts {
        StepCosts::new(points.iter().map(|(width, cost)| (*width, Duration::from_millis(*cost)))).unwrap()
    }

    #[test]
    fn costs_that_say_nothing_are_refused() {
        let new = |points: &[(u32, u64)]| {
            StepCosts::new(points.iter().map(|(width, cost)| (*width, Duration::from_millis(*cost))))
        };
        assert_eq!(new(&[]), Err(StepCostsError::Empty));
        assert_eq!(new(&[(1, 2), (0, 1)]), Err(StepCostsError::ZeroWidth));
        assert_eq!(new(&[(1, 2), (7, 0)]), Err(StepCostsError::ZeroDuration { width: 7 }));
        assert_eq!(new(&[(4, 2), (1, 2), (4, 3)]), Err(StepCostsError::Twice { width: 4 }));
    }

    #[test]
    fn costs_between_points_and_beyond() {
        let costs = millis(&[(8, 40), (2, 10), (4, 30)]);
        let of: Vec<u128> = [0, 1, 2, 3, 4, 6, 8, 12, 1000].map(|width| costs.of(width).as_millis()).to_vec();
        assert_eq!(of, [0, 5, 10, 20, 30, 35, 40, 50, 2520]);
        assert_eq!(costs.points().iter().map(|(width, _)| *width).collect::<Vec<_>>(), [2, 4, 8]);

        let falling = millis(&[(1, 10), (2, 30), (3, 20)]);
        assert_eq!(falling.of(100), Duration::from_millis(20));
        assert_eq!(millis(&[(4, 20)]).of(8), Duration::from_millis(40));
        let endless = StepCosts::new([(1, Duration::from_nanos(1)), (2, Duration::MAX)]).unwrap();
        assert_eq!((endless.of(2), endless.of(u32::MAX)), (Duration::MAX, Duration::MAX));
        assert_eq!(endless.groups(3), [1, 1, 1]);
    }

    #[test]
    fn two_are_slower_together_and_eight_faster() {
        let costs = q8_0();
        assert_eq!(costs.groups(0), [0; 0]);
        assert_eq!(costs.groups(1), [1]);
        assert_eq!(costs.groups(2), [1, 1]);
        for running in 3..=64 {
            assert_eq!(costs.groups(running), [running]);
        }
        assert!((costs.tokens_per_second(2) - 137.0).abs() < 0.1);
        assert!((costs.tokens_per_second(16) - 349.0).abs() < 0.1);
        assert_eq!(costs.tokens_per_second(0), 0.0);
    }

    #[test]
    fn what_gains_at_every_width_is_decoded_together() {
        for running in 1..=256 {
            assert_eq!(q4_0().groups(running), [running]);
        }
    }

    #[test]
    fn groups_stop_where_a_step_becomes_dear() {
        let cliff = millis(&[(1, 10), (8, 17), (9, 40), (16, 80)]);
        assert_eq!(cliff.groups(8), [8]);
        assert_eq!(cliff.groups(9), [5, 4], "equal where that costs the same");
        assert_eq!(cliff.groups(20), [7, 7, 6]);
        assert_eq!(cliff.groups(300).iter().sum::<u32>(), 300);
        assert_eq!(cliff.groups(512), [8; 64]);
        assert_eq!(millis(&[(1, 10)]).groups(3), [3], "nothing gained by cutting");
        // Twice one costs 20, 1.5 % less: not worth a second step. Then it is.
        let two = |micros: u64| {
            StepCosts::new([(1, Duration::from_millis(10)), (2, Duration::from_micros(micros))]).unwrap().groups(2)
        };
        assert_eq!((two(20_300), two(20_500)), (vec![2], vec![1, 1]));
        // Two groups of two would be equal, and dearer.
        assert_eq!(millis(&[(1, 10), (2, 30), (3, 15), (4, 60)]).groups(4), [3, 1]);
    }

    #[test]
    fn more_run_where_that_gains() {
        let costs = q8_0();
        assert_eq!(costs.wider(1, 256, 0), 1);
        assert_eq!(costs.wider(1, 256, 1), 1, "two are no faster than one");
        assert_eq!(costs.wider(1, 256, 7), 8);
        assert_eq!(costs.wider(8, 32, 100), 29, "as fast as 32, but for 2 %");
        assert_eq!(costs.wider(8, 8, 100), 8);
        assert_eq!(costs.wider(9, 8, 100), 8, "never more than the most");
        assert_eq!(costs.wider(0, 4, 4), 4);
        assert_eq!(costs.wider(300, 400, u32::MAX), 300);
        // From 16 to 32 rows Q4_0 gains 4.5 %.
        assert_eq!(q4_0().wider(16, 32, 16), 16);
        assert_eq!(q4_0().wider(8, 32, 24), 23);
    }

    /// Each way to write a number as a sum, parts from `largest` down.
    fn partitions(of: u32, largest: u32) -> Vec<Vec<u32>> {
        if of == 0 {
            return vec![Vec::new()];
        }
        let from =
            |part: u32| partitions(of - part, part).into_iter().map(move |rest| iter::once(part).chain(rest).collect());
        (1..=of.min(largest)).flat_map(from).collect()
    }

    fn some_costs() -> impl Strategy<Value = StepCosts> {
        prop::collection::btree_map(1..40u32, 1..200u64, 1..6)
            .prop_map(|points| millis(&points.into_iter().collect::<Vec<_>>()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against every way to cut.
        #[test]
        fn no_other_cut_is_cheaper(costs in some_costs(), running in 1..13u32) {
            let cost = |groups: &[u32]| groups.iter().map(|width| costs.of(*width).as_secs_f64()).sum::<f64>();
            let all = partitions(running, running);
            let least = all.iter().map(|groups| cost(groups)).fold(f64::INFINITY, f64::min);
            // `of` gives whole nanoseconds.
            let (below, above) = (least * 1.019_999, least * 1.020_001);
            let fewest = all.iter().filter(|groups| cost(groups) <= below).map(Vec::len).min().unwrap();
            let groups = costs.groups(running);
            prop_assert!(cost(&groups) <= above && groups.len() <= fewest);
            prop_assert!(groups.is_sorted_by(|a, b| a >= b));
            prop_assert_eq!(groups.iter().sum::<u32>(), running);
            let equal = all.iter().find(|other| other.len() == groups.len() && other[0] - other[other.len() - 1] <= 1);
            let equal = equal.unwrap();
            prop_assert!(cost(equal) > below || *equal == groups);
            let of_that_many = all.iter().filter(|other| other.len() == groups.len());
            let cheapest = of_that_many.map(|other| cost(other)).fold(f64::INFINITY, f64::min);
            prop_assert!(*equal == groups || cost(&groups) <= cheapest + 1e-7);
            prop_assert!((costs.tokens_per_second(running) * cost(&groups) / f64::from(running) - 1.0).abs() < 1e-5);
        }

        /// Cutting is never worse than one at a time; and wider is what its description says.
        #[test]
        fn never_slower_than_alone(costs in some_costs(), asked in 1..30u32, most in 1..300u32, waiting in 0..300u32) {
            let rate = |running| costs.tokens_per_second(running);
            for running in 1..=600 {
                prop_assert!(rate(running) * 1.020_001 >= rate(1));
                prop_assert_eq!(costs.groups(running).iter().sum::<u32>(), running);
            }
            let asked = asked.min(most);
            let wider = costs.wider(asked, most, waiting);
            let last = most.min(asked + waiting).min(PLANNED).max(asked);
            prop_assert!((asked..=last).contains(&wider));
            let best = (asked..=last).map(rate).fold(0.0, f64::max);
            if wider == asked {
                prop_assert!(best < rate(asked) * 1.05 || last == asked);
            } else {
                let good = |running: &u32| rate(*running) >= rate(asked) * 1.05 && rate(*running) >= best * 0.98;
                prop_assert_eq!((asked + 1..=last).find(good), Some(wider));
            }
        }
    }
}
