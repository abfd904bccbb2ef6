//! What needs data or rights that a machine may lack: data beside the checkout, a mount, a user namespace. With a harness of
//! its own: the usual one can't report at run time that a test was ignored, and why.

mod analysis;
mod cifar10;
mod evidence;
mod exported_loss;
mod full_disk;
mod images_elsewhere;
mod man_page;
mod orl_faces;
mod report;
#[path = "../support/mod.rs"]
mod support;
mod tensorboard;
mod user_namespaces;

use std::fs::File;
use std::path::Path;

use libtest_mimic::{Arguments, Completion, Trial};
use zip::ZipArchive;

/// Err: why the test can't be made here.
type Possible<T = ()> = Result<T, String>;

/// An archive of ../shared/data, if that is there.
fn shared(name: &str) -> Possible<ZipArchive<File>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    let file = File::open(&path).map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(ZipArchive::new(file).expect("a zip archive"))
}

/// A Python that has these modules: the active one, or Debian's, for which scripts/setup.sh --for-tests installs them.
fn python(modules: &[&str]) -> Possible<String> {
    let imports = format!("import {}", modules.join(", "));
    let has_them = |python: &&str| {
        let found = std::process::Command::new(python).args(["-c", &imports]).output();
        found.is_ok_and(|found| found.status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has_them);
    found.map(String::from).ok_or_else(|| format!("no python3 has {}", modules.join(", ")))
}

macro_rules! trials {
    ($($module:ident::$test:ident),* $(,)?) => {
        vec![$(trial(concat!(stringify!($module), "::", stringify!($test)), $module::$test)),*]
    };
}

fn trial(name: &str, test: fn() -> Possible) -> Trial {
    Trial::ignorable_test(name, move || Ok(test().map_or_else(Completion::ignored_with, |()| Completion::Completed)))
}

fn main() {
    let trials = trials![
        analysis::the_tables_are_what_a_checkpoint_holds_and_every_figure_is_drawn,
        analysis::a_search_that_has_just_begun_and_files_of_older_formats_are_analysed,
        analysis::the_curves_are_those_of_our_own_loss,
        analysis::what_is_no_checkpoint_is_told_in_a_sentence,
        analysis::the_commands_of_the_page_work_as_they_stand,
        cifar10::softmax_learns_and_a_search_runs,
        evidence::a_grid_is_run_once_and_its_tables_say_what_the_runs_found,
        exported_loss::a_small_model_learns_in_pytorch_what_it_learns_here,
        exported_loss::values_and_gradients_are_those_of_our_own_head,
        exported_loss::a_runs_own_loss_on_the_logits_of_its_class_weights_and_its_replays_thetas_are_given,
        full_disk::a_disk_that_stays_full_ends_a_search_and_keeps_the_last_checkpoint,
        full_disk::a_disk_that_is_full_for_a_while_changes_no_bit_of_a_search,
        full_disk::a_checkpoint_that_does_not_fit_leaves_nothing,
        images_elsewhere::torchvision_predicts_what_we_predict_and_onnx_is_written,
        man_page::every_page_is_shown_without_a_warning,
        report::every_figure_is_labelled_and_inside_its_frame_on_desks_and_phones,
        orl_faces::real_faces_are_prepared_searched_and_measured,
        tensorboard::events_are_the_history_once_after_a_kill_too_and_change_no_bit,
        user_namespaces::ranks_in_containers_exchange_large_states_and_get_the_same_bits,
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}
