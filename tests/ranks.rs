//! Headline test: the same bits for any number of ranks.

mod support;

use support::{SMALL, assert_code, assert_same, final_without_timings, finish, mpirun};

fn same_for_any_number_of_ranks(settings: &[&str], ranks: &[usize]) {
    let directory = tempfile::tempdir().unwrap();
    let results: Vec<_> = ranks
        .iter()
        .map(|&ranks| {
            let out = directory.path().join(ranks.to_string());
            let out_flag = format!("--out={}", out.display());
            let arguments = [SMALL, settings, &[&out_flag]].concat();
            assert_code(&finish(&mut mpirun(ranks, &arguments)), 0);
            final_without_timings(&out)
        })
        .collect();
    let moved = results[0].history.iter().any(|record| record.delta_norm > 0.0);
    assert!(moved, "mu never moved");
    for result in &results[1..] {
        assert_same(&results[0], result);
    }
}

#[test]
fn reinforce_gives_the_same_bits_for_1_2_and_4_ranks() {
    same_for_any_number_of_ranks(&["--policy=reinforce"], &[1, 2, 4]);
}

#[test]
fn natural_steps_averaged_weights_and_rounds_that_end_with_milestones_keep_the_bits() {
    same_for_any_number_of_ranks(support::NATURAL, &[1, 2, 4]);
}

#[test]
fn every_option_that_touches_ranks_keeps_the_bits() {
    let settings = [
        "--samples=5",
        "--policy=reinforce",
        "--set=search.data_order=independent",
        "--set=search.round_epochs=2",
        "--set=search.warmup_epochs=1",
        "--set=train.optimizer=amsgrad",
        "--set=train.learning_rate=0.001",
        "--set=run.loader_threads=2",
        "--devices-per-rank=2",
        "--label-noise=0.2",
    ];
    same_for_any_number_of_ranks(&settings, &[1, 3]);
}

#[test]
fn images_kept_on_the_devices_change_no_bit() {
    let directory = tempfile::tempdir().unwrap();
    let trained = |resident: &str, devices: &str| {
        let out = directory.path().join(format!("{resident}-{devices}"));
        let (out_flag, resident) = (format!("--out={}", out.display()), format!("--set=run.resident={resident}"));
        let devices = format!("--devices-per-rank={devices}");
        let augmented = ["--set=data.mirror=true", "--set=data.crop_padding=2", "--set=data.erasing=0.5"];
        let arguments = [SMALL, &augmented, &[&resident, &devices, &out_flag]].concat();
        let output = finish(&mut mpirun(2, &arguments));
        assert_code(&output, 0);
        let told = support::text(&output).contains("the training images are kept on each device");
        assert_eq!(told, resident == "--set=run.resident=on");
        final_without_timings(&out)
    };
    for devices in ["1", "2"] {
        let mut kept = trained("on", devices);
        kept.info.config = kept.info.config.replace("resident = \"on\"", "resident = \"off\"");
        assert_same(&trained("off", devices), &kept);
    }
}
