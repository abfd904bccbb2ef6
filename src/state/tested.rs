//! What a test finds.

/// What a model's test on the test set says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tested {
    /// By name.
    pub metrics: Vec<(String, f64)>,
    /// Of a classifier, unless it is broken.
    pub predictions: Option<Predictions>,
}

/// What a classifier says of labelled images: [N] each.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Predictions {
    /// The image's number in the data.
    pub image: Vec<i64>,
    /// Its class.
    pub label: Vec<i64>,
    /// The most likely class.
    pub predicted: Vec<i64>,
}

impl Predictions {
    /// How many images of a class were taken for a class: ((label, predicted), images), sorted; those of no image are not there.
    pub fn confusion(&self) -> Vec<((i64, i64), u64)> {
        let mut counts = std::collections::BTreeMap::new();
        for pair in self.label.iter().copied().zip(self.predicted.iter().copied()) {
            *counts.entry(pair).or_default() += 1;
        }
        counts.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confusions_are_counted_by_class_and_prediction() {
        let predictions =
            Predictions { image: (0..6).collect(), label: vec![1, 0, 1, 1, 0, 9], predicted: vec![1, 0, 0, 1, 0, 1] };
        assert_eq!(predictions.confusion(), [((0, 0), 2), ((1, 0), 1), ((1, 1), 2), ((9, 1), 1)]);
    }
}
