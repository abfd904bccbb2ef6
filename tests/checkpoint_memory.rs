//! The memory that writing a checkpoint takes, as the kernel counts it: a rank trains meanwhile.

mod support;

use amlfs::checkpoint::{self, Checkpoint, RunInfo};
use amlfs::state::{PolicyState, TensorSpec};
use support::{reset_peak, resident};

#[test]
fn a_checkpoint_is_written_from_the_state_with_room_for_single_tensors_alone() {
    const TENSORS: usize = 12;
    let shape = vec![256, 512, 3, 3];
    let len: usize = shape.iter().product();
    let spec = |i: usize| TensorSpec {
        path: format!("model/conv{i}.weight"),
        shape: shape.clone(),
        offset: i * len,
        channels_last: true, // another order in the file
    };
    let specs: Vec<TensorSpec> = (0..TENSORS).map(spec).collect();
    let state: Vec<f32> = (0..TENSORS * len).map(|i| i as f32).collect(); // 57 MB
    let written = Checkpoint {
        info: RunInfo {
            config: String::new(),
            seed: 0,
            ranks: 1,
            threads: 1,
            libtorch: String::new(),
            device: String::new(),
            classes: Vec::new(),
        },
        epoch: 0,
        policy: PolicyState { mu: vec![], sigma: vec![], step: 0, memory: vec![] },
        history: vec![],
        tensors: vec![],
        test: vec![],
        predictions: None,
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("final.h5");
    // once for what libraries allocate for good
    checkpoint::write_state(&file, &written, &specs[..1], &state).unwrap();
    reset_peak();
    let (_, before) = resident();
    checkpoint::write_state(&file, &written, &specs, &state).unwrap();
    let tensors = (resident().0 - before) / (4 * len) as f64;
    println!("{tensors:.2} tensors of {TENSORS} at the peak");
    assert!(tensors < 6.0, "{tensors} tensors of {TENSORS} at the peak");
    assert_eq!(checkpoint::read(&file).unwrap().tensors[1].values[..2], [len as f32, (len + 512) as f32]);
}
