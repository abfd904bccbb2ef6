//! Data that are too small for the settings, a preset's for example: one error with everything that does not fit, and the
//! flags that make it fit.

use std::path::Path;

use crate::config;
use crate::error::{Error, Result};

/// What does not fit, and flags that change it.
#[derive(Debug, Default, PartialEq)]
pub struct Misfit {
    problems: Vec<String>,
    flags: Vec<String>,
}

impl Misfit {
    pub fn add(&mut self, problem: impl Into<String>, flags: impl IntoIterator<Item = String>) {
        self.problems.push(problem.into());
        self.flags.extend(flags);
    }

    /// Error: something does not fit the data in `path`.
    pub fn into_result(self, path: &Path) -> Result<()> {
        let Misfit { problems, flags } = self;
        if problems.is_empty() {
            return Ok(());
        }
        let what = match flags.is_empty() {
            true => "No setting makes it fit: more data are needed".into(),
            false => format!("These fit: {}", flags.join(" ")),
        };
        Err(Error::file(path, format!("does not fit the settings: {}. {what}", problems.join("; "))))
    }
}

/// `--set key=value` where the value is another one.
fn changed(key: &str, from: usize, to: usize) -> Option<String> {
    (from != to).then(|| format!("--set {key}={to}"))
}

/// Whether `identities`, `pairs` of which have two or more images, are enough for the probes and distractors that are
/// held out and two to train on.
pub fn faces(identities: usize, pairs: usize, config: &config::Faces, misfit: &mut Misfit) {
    let (probes, distractors) = (config.probe_identities, config.distractor_identities);
    if probes <= pairs && probes + distractors + 2 <= identities {
        return;
    }
    let problem = format!(
        "{identities} identities, {pairs} of them with two or more images; held out are data.faces.probe_identities = \
         {probes} (with two images each) and data.faces.distractor_identities = {distractors}, and two or more are \
         trained on"
    );
    if identities < 4 || pairs == 0 {
        return misfit.add(problem, []);
    }
    let fifth = (identities / 5).max(1);
    let (fewer_probes, fewer_distractors) = (probes.min(fifth).min(pairs), distractors.min(fifth));
    let flags = [
        changed("data.faces.probe_identities", probes, fewer_probes),
        changed("data.faces.distractor_identities", distractors, fewer_distractors),
    ];
    misfit.add(problem, flags.into_iter().flatten());
}

/// Whether `people`, `seen_twice` of whom two or more cameras have seen, are enough for those that are held out and for a
/// batch of the others.
pub fn people(people: usize, seen_twice: usize, config: &config::Reid, batch_size: usize, misfit: &mut Misfit) {
    let (held_out, images) = (config.validation_identities, config.images_per_identity);
    let in_batch = batch_size / images;
    let enough = held_out <= seen_twice && held_out + 2 <= people;
    if enough && held_out + in_batch <= people {
        return;
    }
    let all = format!("{people} people to train with, {seen_twice} of them seen by two or more cameras");
    let fewer = held_out.min(seen_twice).min((people / 4).max(2));
    let possible = people >= 4 && seen_twice >= 2;
    if !enough {
        let problem = format!(
            "{all}; held out are data.reid.validation_identities = {held_out} (seen by two cameras), and two or more are \
             trained on"
        );
        misfit.add(problem, possible.then(|| changed("data.reid.validation_identities", held_out, fewer)).flatten());
    }
    let left = people.saturating_sub(if enough { held_out } else { fewer });
    if left < in_batch {
        let which = if enough { all } else { format!("with {fewer} held out") };
        let problem = format!(
            "{which}: {left} are left to train on, and a batch takes {in_batch}, train.batch_size = {batch_size} over \
             data.reid.images_per_identity = {images}"
        );
        // fewer held out may be enough
        let held_out_flag = enough.then(|| changed("data.reid.validation_identities", held_out, fewer)).flatten();
        let batch = in_batch.min(people.saturating_sub(fewer)).max(2) * images;
        let flags = [held_out_flag, changed("train.batch_size", batch_size, batch)];
        misfit.add(problem, flags.into_iter().flatten().filter(|_| possible));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TypedConfig;

    fn typed() -> TypedConfig {
        TypedConfig::from_toml(include_str!("../../config/stored.toml")).unwrap()
    }

    fn told(misfit: Misfit) -> String {
        misfit.into_result(Path::new("tree.h5")).err().map(|error| error.to_string()).unwrap_or_default()
    }

    /// The number that an advice gives a key, or what it was.
    fn advised(text: &str, key: &str, was: usize) -> usize {
        let flag = text.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        flag.map_or(was, |number| number.parse().unwrap())
    }

    #[test]
    fn whatever_is_too_small_for_re_identification_fits_with_the_advice() {
        for (held_out, batch_size, images) in [(75, 64, 4), (4, 128, 8), (2, 4, 2), (300, 16, 4)] {
            let mut config = typed().data.reid;
            (config.validation_identities, config.images_per_identity) = (held_out, images);
            for count in 0..120 {
                for seen_twice in [count, count / 2, count.min(2), 1.min(count)] {
                    let mut misfit = Misfit::default();
                    people(count, seen_twice, &config, batch_size, &mut misfit);
                    let text = told(misfit);
                    if text.is_empty() {
                        assert!(held_out + (batch_size / images).max(2) <= count && held_out <= seen_twice);
                        continue;
                    }
                    if count < 4 || seen_twice < 2 {
                        assert!(text.ends_with("more data are needed"), "{text}");
                        continue;
                    }
                    config.validation_identities = advised(&text, "data.reid.validation_identities", held_out);
                    let batch_size = advised(&text, "train.batch_size", batch_size);
                    assert!(
                        batch_size > images && batch_size.is_multiple_of(images) && config.validation_identities >= 2,
                        "{text}"
                    );
                    let mut misfit = Misfit::default();
                    people(count, seen_twice, &config, batch_size, &mut misfit);
                    assert_eq!(misfit, Misfit::default(), "{count} {seen_twice}: {text}");
                    config.validation_identities = held_out;
                }
            }
        }
    }

    #[test]
    fn whatever_is_too_small_for_faces_fits_with_the_advice() {
        for (probes, distractors) in [(80, 200), (4, 4), (1, 50), (50, 1)] {
            let mut config = typed().data.faces;
            (config.probe_identities, config.distractor_identities) = (probes, distractors);
            for count in 0..300 {
                for pairs in [count, count / 2, 1.min(count), 0] {
                    let mut misfit = Misfit::default();
                    faces(count, pairs, &config, &mut misfit);
                    let text = told(misfit);
                    if text.is_empty() {
                        assert!(probes <= pairs && probes + distractors + 2 <= count);
                        continue;
                    }
                    if count < 4 || pairs == 0 {
                        assert!(text.ends_with("more data are needed"), "{text}");
                        continue;
                    }
                    let mut fitting = config.clone();
                    fitting.probe_identities = advised(&text, "data.faces.probe_identities", probes);
                    fitting.distractor_identities = advised(&text, "data.faces.distractor_identities", distractors);
                    assert!(fitting.probe_identities > 0 && fitting.distractor_identities > 0, "{text}");
                    let mut misfit = Misfit::default();
                    faces(count, pairs, &fitting, &mut misfit);
                    assert_eq!(misfit, Misfit::default(), "{count} {pairs}: {text}");
                }
            }
        }
    }

    #[test]
    fn one_error_says_everything_that_does_not_fit() {
        let mut config = typed().data.reid;
        (config.validation_identities, config.images_per_identity) = (75, 4);
        let mut misfit = Misfit::default();
        people(20, 18, &config, 128, &mut misfit);
        assert_eq!(
            told(misfit),
            "tree.h5: does not fit the settings: \
             20 people to train with, 18 of them seen by two or more cameras; held out are \
             data.reid.validation_identities = 75 (seen by two cameras), and two or more are trained on; \
             with 5 held out: 15 are left to train on, and a batch takes 32, train.batch_size = 128 over \
             data.reid.images_per_identity = 4. \
             These fit: --set data.reid.validation_identities=5 --set train.batch_size=60"
        );
    }
}
