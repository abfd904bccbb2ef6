//! Which devices a rank computes on.

use tch::{Cuda, Device};

use crate::comm::{self, Comm};
use crate::config::{DeviceKind, Run};
use crate::error::{Error, Result};

/// A rank's devices, chosen before MPI_Init: some MPIs touch a GPU there. Errors: CUDA wanted and not there.
pub fn choose(run: &Run) -> Result<Vec<Device>> {
    let cuda = match run.device {
        DeviceKind::Cpu => false,
        DeviceKind::Auto => Cuda::is_available(),
        DeviceKind::Cuda if Cuda::is_available() => true,
        DeviceKind::Cuda => return Err(Error::config(format!("run.device = \"cuda\": {}", why_no_cuda()))),
    };
    if !cuda {
        return Ok(vec![Device::Cpu; run.devices_per_rank.unwrap_or(1)]);
    }
    let visible = Cuda::device_count() as usize;
    let wanted = run.devices_per_rank.unwrap_or(visible.min(2));
    let local_rank = comm::launcher_local_rank().unwrap_or(0);
    if wanted > visible {
        return Err(Error::config(format!("run.devices_per_rank = {wanted}: this rank sees {visible} CUDA device(s)")));
    }
    Ok(assign(visible, wanted, local_rank).into_iter().map(Device::Cuda).collect())
}

/// A rank that sees no more devices than it wants takes them all (the launcher has sliced them); else the ranks of a
/// node take slices in turn, from the first again once the devices are used up.
fn assign(visible: usize, wanted: usize, local_rank: usize) -> Vec<usize> {
    let slices = (visible / wanted).max(1);
    let first = local_rank % slices * wanted;
    (first..first + wanted).collect()
}

/// After MPI_Init: checks what `choose` relied on, and says where ranks share devices.
pub fn check(devices: &[Device], comm: &Comm) -> Result<()> {
    let Device::Cuda(_) = devices[0] else { return Ok(()) };
    let (local_rank, local_size) = comm.local();
    if comm::launcher_local_rank().is_some_and(|expected| expected != local_rank) {
        return Err(Error::failed(format!(
            "the launcher says this is rank {} of its node, MPI says {local_rank}: devices would be shared unevenly",
            comm::launcher_local_rank().unwrap_or(0)
        )));
    }
    let visible = Cuda::device_count() as usize;
    if visible > devices.len() && local_size * devices.len() > visible && local_rank == 0 {
        log::warn!("{local_size} ranks with {} devices each share this node's {visible} devices", devices.len());
    }
    Ok(())
}

fn why_no_cuda() -> &'static str {
    if !tch::utils::has_cuda() {
        "this libtorch was built without CUDA, or the program was linked without it; build with a CUDA libtorch (docs/clusters.md)"
    } else {
        "libtorch finds no CUDA device; see nvidia-smi and CUDA_VISIBLE_DEVICES"
    }
}

/// For logs and files: "cpu", "cpu x 2", "cuda:0 + cuda:1".
pub fn describe(devices: &[Device]) -> String {
    match devices {
        [Device::Cpu] => "cpu".into(),
        [Device::Cpu, ..] => format!("cpu x {}", devices.len()),
        _ => {
            let name = |device: &Device| match device {
                Device::Cuda(index) => format!("cuda:{index}"),
                other => format!("{other:?}"),
            };
            devices.iter().map(name).collect::<Vec<_>>().join(" + ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_take_slices_in_turn_and_share_when_devices_run_out() {
        assert_eq!(assign(2, 2, 5), [0, 1], "sliced by the launcher");
        assert_eq!(assign(8, 2, 0), [0, 1]);
        assert_eq!(assign(8, 2, 3), [6, 7]);
        assert_eq!(assign(8, 2, 4), [0, 1], "more ranks than devices");
        assert_eq!(assign(4, 1, 6), [2]);
        assert_eq!(assign(3, 2, 1), [0, 1]);
    }
}
