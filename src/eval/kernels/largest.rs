//! The k largest of a stream of scores.

/// Keeps up to a quarter more than asked, and selects now and then: constant time per score, no heap, and a threshold that is soon
/// near the last one kept.
#[derive(Clone, Debug)]
pub struct Largest {
    capacity: usize,
    values: Vec<f32>,
    threshold: f32,
}

impl Largest {
    /// The `capacity` largest; 0 keeps none.
    pub fn new(capacity: usize) -> Largest {
        let threshold = if capacity == 0 { f32::INFINITY } else { f32::NEG_INFINITY };
        Largest { capacity, values: Vec::new(), threshold }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// A score that is not larger changes nothing.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    pub fn push(&mut self, score: f32) {
        if score > self.threshold {
            self.values.push(score + 0.0); // no -0.0: the order of arrival must not show
            if self.values.len() > self.capacity + self.capacity / 4 {
                let last = self.nth(self.capacity);
                self.values.truncate(self.capacity);
                self.threshold = self.threshold.max(last);
            }
        }
    }

    /// The n-th largest, n > 0; -inf if there are fewer. Those that are kept in excess count, too.
    pub fn nth(&mut self, n: usize) -> f32 {
        if n > self.values.len() {
            return f32::NEG_INFINITY;
        }
        *self.values.select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a)).1
    }

    /// From now on scores that are not above `floor` change nothing.
    pub fn ignore_up_to(&mut self, floor: f32) {
        self.threshold = self.threshold.max(floor);
    }

    /// -inf if there is none.
    pub fn first(&self) -> f32 {
        self.values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// [capacity], in no order, then -inf.
    pub fn unsorted(&self) -> Vec<f32> {
        let mut values = self.values.clone();
        if values.len() > self.capacity {
            values.select_nth_unstable_by(self.capacity - 1, |a, b| b.total_cmp(a));
        }
        values.resize(self.capacity, f32::NEG_INFINITY);
        values
    }

    /// [capacity], descending, then -inf.
    pub fn sorted(&self) -> Vec<f32> {
        let mut sorted = self.values.clone();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        sorted.resize(self.capacity, f32::NEG_INFINITY);
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::Largest;

    #[test]
    fn the_largest_are_kept_whatever_the_order() {
        let scores: Vec<f32> = (0..500).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
        for capacity in [0, 1, 2, 7, 100, 1000] {
            let mut expected = scores.clone();
            expected.sort_by(|a, b| b.total_cmp(a));
            expected.resize(capacity, f32::NEG_INFINITY);
            let (mut forwards, mut backwards) = (Largest::new(capacity), Largest::new(capacity));
            scores.iter().for_each(|&score| forwards.push(score));
            scores.iter().rev().for_each(|&score| backwards.push(score));
            assert_eq!(forwards.sorted(), expected);
            assert_eq!(backwards.sorted(), expected);
            let mut unsorted = forwards.unsorted();
            unsorted.sort_by(|a, b| b.total_cmp(a));
            assert_eq!(unsorted, expected);
        }
    }

    #[test]
    fn the_nth_is_that_of_all_and_what_is_ignored_never_comes() {
        let mut top = Largest::new(4);
        assert_eq!(top.nth(1), f32::NEG_INFINITY);
        [3.0, 1.0, 2.0].into_iter().for_each(|score| top.push(score));
        assert_eq!([1, 2, 3, 4].map(|n| top.nth(n)), [3.0, 2.0, 1.0, f32::NEG_INFINITY]);
        top.ignore_up_to(2.5);
        top.ignore_up_to(0.5);
        [2.5, 2.6, 0.7].into_iter().for_each(|score| top.push(score));
        assert_eq!(top.sorted(), [3.0, 2.6, 2.0, 1.0]);
        // a selection whose last is below the floor does not lower it: 1.0 was there before
        let mut top = Largest::new(4);
        [3.0, 1.0].into_iter().for_each(|score| top.push(score));
        top.ignore_up_to(2.5);
        [4.0, 5.0, 6.0, 7.0].into_iter().for_each(|score| top.push(score));
        assert_eq!((top.threshold(), top.sorted()), (4.0, vec![7.0, 6.0, 5.0, 4.0]));
    }

    #[test]
    fn zeros_of_either_sign_are_one() {
        let mut top = Largest::new(1);
        [-0.0, 0.0, -0.0].into_iter().for_each(|score| top.push(score));
        assert_eq!(top.sorted()[0].to_bits(), 0.0f32.to_bits());
    }
}
