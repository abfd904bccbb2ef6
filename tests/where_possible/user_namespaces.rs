//! Ranks in user namespaces of their own, as unprivileged containers have them.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::Possible;
use crate::support::{
    AMLFS, SMALL, assert_code, assert_same, final_without_timings, finish, mpirun, mpirun_program, text,
};

/// 3.4 million weights: short messages are copied in another way.
const LARGE: &[&str] = &[
    "--epochs=1",
    "--set=model.depth=56",
    "--set=model.width=2",
    "--set=train.epoch_iterations=1",
    "--set=data.glyphs.train_images=100",
];

pub fn ranks_in_containers_exchange_large_states_and_get_the_same_bits() -> Possible {
    let unshare = Command::new("unshare").args(["-Ur", "true"]).stdin(Stdio::null()).output();
    match unshare {
        Ok(output) if output.status.success() => {}
        Ok(output) => return Err(format!("no user namespaces: {}", text(&output).trim())),
        Err(why) => return Err(format!("can't start unshare: {why}")),
    }
    let directory = tempfile::tempdir().unwrap();
    let (inside, outside) = (directory.path().join("inside"), directory.path().join("outside"));
    let arguments =
        |out: &Path| [SMALL, LARGE].concat().into_iter().map(String::from).chain([format!("--out={}", out.display())]);
    let mut command = mpirun_program(2, Path::new("unshare"));
    // the test's own value would hide what is tested
    command.env_remove("OMPI_MCA_btl_vader_single_copy_mechanism");
    let output = finish(command.args(["-Ur", AMLFS]).args(arguments(&inside)));
    assert_code(&output, 0);
    assert!(text(&output).contains("this is a user namespace"), "{}", text(&output));
    assert_code(&finish(mpirun(2, &[]).args(arguments(&outside))), 0);
    assert_same(&final_without_timings(&inside), &final_without_timings(&outside));
    Ok(())
}
