//! The range of every setting: table by table, each range spelled once.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::typed::{
    ClassImages, Data, DataKind, DataOrder, Glyphs, Loss, Model, ModelName, Reid, Reward, RewardWeights, Run, Search,
    Train, TypedConfig,
};
use crate::loss::FixedLossKind;
use crate::policy::PolicyKind;

/// The key of a value that can't be, and what is allowed.
pub type Problem = (&'static str, String);

pub type Check = std::result::Result<(), Problem>;

/// The most that `run.loader_threads` may be. A rank may compute with more threads than may read images.
pub const MOST_LOADER_THREADS: usize = 256;
pub const NO_MARGIN: &str = "left out: this loss has no margin";

pub fn ensure(ok: bool, key: &'static str, allowed: &str) -> Check {
    if ok { Ok(()) } else { Err((key, format!("must be {allowed}"))) }
}

fn within<T: PartialOrd + Display>(key: &'static str, value: T, range: RangeInclusive<T>) -> Check {
    ensure(range.contains(&value), key, &format!("{} to {}", range.start(), range.end()))
}

fn two_within(key: &'static str, values: [usize; 2], range: RangeInclusive<usize>) -> Check {
    let fit = values.iter().all(|value| range.contains(value));
    ensure(fit, key, &format!("two numbers, {} to {}", range.start(), range.end()))
}

/// 1 to 2 to the power of `most`, and says it in this way.
fn up_to_power_of_2(key: &'static str, value: usize, most: u32) -> Check {
    ensure((1..=1 << most).contains(&value), key, &format!("1 to 2^{most}"))
}

fn at_least_1(key: &'static str, value: usize) -> Check {
    ensure(value >= 1, key, "at least 1")
}

fn either<T: PartialEq + Display>(key: &'static str, value: T, one: T, other: T) -> Check {
    ensure(value == one || value == other, key, &format!("{one} or {other}"))
}

fn above_0(key: &'static str, value: f64) -> Check {
    ensure(value.is_finite() && value > 0.0, key, "above 0")
}

fn at_least(key: &'static str, value: f64, least: f64) -> Check {
    ensure(value.is_finite() && value >= least, key, &format!("at least {least}"))
}

fn from_0_below_1(key: &'static str, value: f64) -> Check {
    ensure((0.0..1.0).contains(&value), key, "at least 0 and below 1")
}

fn above_0_at_most(key: &'static str, value: f64, most: f64) -> Check {
    ensure(value > 0.0 && value <= most, key, &format!("above 0 and at most {most}"))
}

/// The item of a table whose name the value is.
pub fn one_of<T>(
    key: &'static str,
    value: &str,
    table: &'static [T],
    name: fn(&T) -> &'static str,
) -> std::result::Result<&'static T, Problem> {
    table.iter().find(|item| name(item) == value).ok_or_else(|| (key, unknown(table.iter().map(name))))
}

pub fn unknown(known: impl Iterator<Item = &'static str>) -> String {
    let known: Vec<String> = known.map(|name| format!("`{name}`")).collect();
    format!("unknown name, expected one of {}", known.join(", "))
}

/// Every setting by itself, and those that must fit each other.
pub fn check(config: &TypedConfig, policy: &PolicyKind) -> Check {
    let TypedConfig { data, model, loss, search, train, run } = config;
    check_data(data)?;
    check_model(model, data.kind)?;
    if data.kind == DataKind::Reid {
        check_reid(&data.reid, data.crop_padding, train.batch_size)?;
    }
    check_loss(loss, model.name)?;
    let of_classes = [Reward::Recall, Reward::Top5, Reward::BalancedLikelihood].contains(&search.reward());
    let classified = !matches!(data.kind, DataKind::Faces | DataKind::Reid);
    ensure(classified || !of_classes, "search.reward", "metric or likelihood: the others are for classification")?;
    check_search(search, policy)?;
    check_start(search)?;
    check_train(train)?;
    let averaged = search.reward_weights == Some(RewardWeights::Average);
    ensure(!averaged || train.average.is_some(), "search.reward_weights", "last: train.average keeps no average")?;
    check_run(run)
}

fn check_data(data: &Data) -> Check {
    let fraction = data.validation_fraction;
    ensure(fraction > 0.0 && fraction < 1.0, "data.validation_fraction", "between 0 and 1, both excluded")?;
    from_0_below_1("data.label_noise", data.label_noise)?;
    let cifar = matches!(data.kind, DataKind::Cifar10 | DataKind::Cifar100);
    if let Some(imbalance) = data.imbalance {
        let balanced = cifar || data.kind == DataKind::Glyphs;
        ensure(balanced, "data.imbalance", "left out: only cifar10, cifar100 and glyphs have it")?;
        within("data.imbalance", imbalance, 1.0..=1e6)?;
    }
    let classified = !matches!(data.kind, DataKind::Faces | DataKind::Reid);
    ensure(classified || data.sampling.is_none(), "data.sampling", "left out: faces have it shuffled, re-ID P x K")?;
    if let Some(size) = data.size {
        ensure(cifar, "data.size", "left out: only cifar10 and cifar100 have it")?;
        within("data.size", size, 8..=256)?;
    }
    within("data.crop_padding", data.crop_padding, 0..=64)?;
    within("data.erasing", data.erasing, 0.0..=1.0)?;
    let faces = &data.faces;
    two_within("data.faces.size", faces.size, 16..=1024)?;
    within("data.faces.probe_identities", faces.probe_identities, 1..=1 << 20)?;
    within("data.faces.distractor_identities", faces.distractor_identities, 1..=1 << 20)?;
    within("data.faces.images_per_identity", faces.images_per_identity, 2..=1 << 20)?;
    data.images.as_ref().map_or(Ok(()), check_images)?;
    check_glyphs(&data.glyphs)
}

fn check_images(images: &ClassImages) -> Check {
    within("data.images.size", images.size, 16..=1024)?;
    within("data.images.shorter_side", images.shorter_side, images.size..=4096)?;
    let [least, most] = images.scale;
    ensure(
        0.0 < least && least <= most && most <= 1.0,
        "data.images.scale",
        "two shares above 0, in order, at most 1",
    )?;
    let [least, most] = images.ratio;
    ensure(0.01 <= least && least <= most && most <= 100.0, "data.images.ratio", "two numbers, 0.01 to 100, in order")?;
    let fraction = images.test_fraction;
    ensure(fraction > 0.0 && fraction < 1.0, "data.images.test_fraction", "between 0 and 1, both excluded")
}

fn check_glyphs(glyphs: &Glyphs) -> Check {
    within("data.glyphs.classes", glyphs.classes, 2..=100_000)?;
    ensure(glyphs.train_images >= 2 * glyphs.classes, "data.glyphs.train_images", "at least two for each class")?;
    up_to_power_of_2("data.glyphs.train_images", glyphs.train_images, 31)?;
    up_to_power_of_2("data.glyphs.test_images", glyphs.test_images, 31)?;
    within("data.glyphs.image_size", glyphs.image_size, 16..=512)?;
    within("data.glyphs.difficulty", glyphs.difficulty, 0.0..=1.0)
}

fn check_reid(reid: &Reid, crop_padding: usize, batch_size: usize) -> Check {
    two_within("data.reid.size", reid.size, 16..=1024)?;
    let fits = |i: usize| (16..=reid.size[i] + 2 * crop_padding).contains(&reid.crop[i]);
    ensure(fits(0) && fits(1), "data.reid.crop", "two numbers, 16 to data.reid.size with data.crop_padding around")?;
    within("data.reid.images_per_identity", reid.images_per_identity, 2..=1024)?;
    ensure(
        batch_size.is_multiple_of(reid.images_per_identity) && batch_size > reid.images_per_identity,
        "train.batch_size",
        "P identities times data.reid.images_per_identity, P at least 2",
    )?;
    within("data.reid.validation_identities", reid.validation_identities, 2..=1 << 20)?;
    within("data.reid.validation_images", reid.validation_images, 2..=1 << 20)
}

fn check_model(model: &Model, kind: DataKind) -> Check {
    let for_reid = [ModelName::SphereReid, ModelName::Sft, ModelName::Mgn].contains(&model.name);
    match kind {
        DataKind::Reid => ensure(for_reid, "model.name", "sphere-reid, sft or mgn for data.kind = \"reid\"")?,
        _ => ensure(
            !for_reid,
            "model.name",
            "resnet-cifar, resnet or sphereface: the others are for data.kind = \"reid\"",
        )?,
    }
    above_0_at_most("model.width", model.width, 4.0)?;
    either("model.last_stride", model.last_stride, 1, 2)?;
    let depth = model.depth;
    match model.name {
        ModelName::Resnet => ensure([18, 34, 50].contains(&depth), "model.depth", "18, 34 or 50 for resnet"),
        _ => ensure((8..=1202).contains(&depth) && depth % 6 == 2, "model.depth", "6n + 2: 8, 14, 20, 32, 56 ..."),
    }
}

fn check_loss(loss: &Loss, model: ModelName) -> Check {
    above_0("loss.scale", loss.scale)?;
    at_least("loss.w_max", loss.w_max, 1.0)?;
    at_least("loss.logit_adjustment", loss.logit_adjustment.unwrap_or_default(), 0.0)?;
    above_0("loss.softmax_weight", loss.softmax_weight)?;
    at_least("loss.triplet_weight", loss.triplet_weight, 0.0)?;
    at_least("loss.triplet_margin", loss.triplet_margin, 0.0)?;
    let has_triplets = model == ModelName::Mgn;
    ensure(
        loss.triplet_weight == 0.0 || has_triplets,
        "loss.triplet_weight",
        "0: of the models only mgn has a triplet loss",
    )
}

/// `margin` is None only for a loss that has none.
pub fn check_margin(loss: &FixedLossKind, margin: Option<f64>) -> Check {
    match (&loss.margin, margin) {
        (Some(allowed), Some(margin)) => ensure((allowed.allows)(margin), "loss.margin", allowed.range),
        (None, Some(_)) => ensure(false, "loss.margin", NO_MARGIN),
        (_, None) => Ok(()),
    }
}

fn check_search(search: &Search, policy: &PolicyKind) -> Check {
    within("search.samples", search.samples, 1..=65536)?;
    ensure(
        !policy.pairs || search.samples.is_multiple_of(2),
        "search.samples",
        &format!("even for the policy '{}', which draws pairs", policy.name),
    )?;
    within("search.intervals", search.intervals, 1..=1000)?;
    above_0("search.sigma", search.sigma)?;
    if let Some(smoothness) = search.smoothness {
        within("search.smoothness", smoothness, 0.0..=100.0)?;
        let why = format!(
            "0 for the policy '{}', whose gradient is that of independent draws; --search paper draws so",
            policy.name
        );
        ensure(policy.smooth || smoothness == 0.0, "search.smoothness", &why)?;
    }
    at_least("search.learning_rate", search.learning_rate, 0.0)?;
    let betas = search.betas.iter().all(|beta| (0.0..1.0).contains(beta));
    ensure(betas, "search.betas", "two numbers at least 0 and below 1")?;
    at_least_1("search.round_epochs", search.round_epochs)?;
    search.rounds.map_or(Ok(()), |rounds| at_least_1("search.rounds", rounds))?;
    ensure(
        policy.name != "select" || search.samples == 1 || search.data_order == DataOrder::Independent,
        "search.data_order",
        "independent for the policy 'select', whose samples have equal losses",
    )
}

/// mu and sigma.
fn check_start(search: &Search) -> Check {
    let (space, names) = (search.space(), search.space().groups().into_iter().map(|group| group.name));
    for (name, &sigma) in &search.sigmas {
        let known = names.clone().any(|known| known == name);
        ensure(
            known,
            "search.sigmas",
            &format!("of {}: {name} is no part of theta", names.clone().collect::<Vec<_>>().join(", ")),
        )?;
        at_least("search.sigmas", sigma, 0.0)?;
    }
    let dimension = space.dimension();
    let fits = |mu: &[f64]| mu.len() == dimension && mu.iter().all(|value| value.is_finite());
    let numbers = format!("{dimension} finite numbers: {}", space.names().join(", "));
    ensure(search.mu.as_deref().is_none_or(fits), "search.mu", &numbers)?;
    ensure(search.schedule.iter().all(|row| fits(row)), "search.schedule", &format!("rows of {numbers}"))?;
    let unused = search.schedule.is_empty() || search.policy == "select";
    ensure(unused, "search.schedule", "left out: only the policy 'select' follows one")
}

fn check_train(train: &Train) -> Check {
    within("train.epochs", train.epochs, 1..=100_000)?;
    if let Some(iterations) = train.epoch_iterations {
        up_to_power_of_2("train.epoch_iterations", iterations, 30)?;
    }
    within("train.batch_size", train.batch_size, 1..=1 << 20)?;
    above_0("train.learning_rate", train.learning_rate)?;
    at_least("train.warmup_learning_rate", train.warmup_learning_rate, 0.0)?;
    ensure(train.milestones.is_sorted(), "train.milestones", "in ascending order")?;
    above_0_at_most("train.gamma", train.gamma, 1.0)?;
    from_0_below_1("train.momentum", train.momentum)?;
    at_least("train.weight_decay", train.weight_decay, 0.0)?;
    train.average.map_or(Ok(()), |epochs| above_0("train.average", epochs))
}

fn check_run(run: &Run) -> Check {
    within("run.threads", run.threads, 1..=1024)?;
    within("run.loader_threads", run.loader_threads, 1..=MOST_LOADER_THREADS)?;
    run.devices_per_rank.map_or(Ok(()), |devices| either("run.devices_per_rank", devices, 1, 2))?;
    at_least_1("run.keep", run.keep)?;
    run.save_minutes.map_or(Ok(()), |minutes| above_0("run.save_minutes", minutes))?;
    run.max_failed_saves.map_or(Ok(()), |saves| at_least_1("run.max_failed_saves", saves))?;
    run.max_hours.map_or(Ok(()), |hours| above_0("run.max_hours", hours))?;
    run.stall_minutes.map_or(Ok(()), |minutes| within("run.stall_minutes", minutes, 0.1..=1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(check: Check, why: &str) {
        assert_eq!(check, Err(("a.key", why.to_owned())));
    }

    #[test]
    fn a_range_says_itself_in_words_and_holds_its_ends() {
        for inside in [16, 1024] {
            assert_eq!(within("a.key", inside, 16..=1024), Ok(()));
        }
        for outside in [15, 1025] {
            refused(within("a.key", outside, 16..=1024), "must be 16 to 1024");
        }
        refused(two_within("a.key", [16, 15], 16..=1024), "must be two numbers, 16 to 1024");
        assert_eq!(up_to_power_of_2("a.key", 1 << 31, 31), Ok(()));
        refused(up_to_power_of_2("a.key", 0, 31), "must be 1 to 2^31");
        refused(up_to_power_of_2("a.key", (1 << 31) + 1, 31), "must be 1 to 2^31");
        refused(at_least_1("a.key", 0), "must be at least 1");
        refused(either("a.key", 3, 1, 2), "must be 1 or 2");
        refused(above_0("a.key", 0.0), "must be above 0");
        refused(at_least("a.key", 0.9, 1.0), "must be at least 1");
        refused(from_0_below_1("a.key", 1.0), "must be at least 0 and below 1");
        refused(above_0_at_most("a.key", 4.1, 4.0), "must be above 0 and at most 4");
    }

    #[test]
    fn what_is_not_finite_is_in_no_range() {
        for value in [f64::NAN, f64::INFINITY] {
            assert!(within("a.key", value, 0.0..=1.0).is_err());
            assert!(above_0("a.key", value).is_err());
            assert!(at_least("a.key", value, 0.0).is_err());
            assert!(from_0_below_1("a.key", value).is_err());
            assert!(above_0_at_most("a.key", value, 1.0).is_err());
        }
    }
}
