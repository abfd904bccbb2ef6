//! Which devices a rank computes on, and how tensors get there.

use std::ffi::{CStr, c_int, c_void};
use std::mem::transmute;
use std::path::Path;

use tch::{Cuda, Device, Tensor};

use crate::comm::{self, Comm};
use crate::config::{DeviceKind, Run};
use crate::error::{Error, Result};

/// Where it is set, a rank may want more devices than it sees: two replicas on one card, which tests (`benches/gpu.sh`) may have.
const SHARE: &str = "AMLFS_SHARE_DEVICES";

/// A rank's devices, chosen before MPI_Init: some MPIs touch a GPU there. Errors: CUDA wanted and not there, or not there in a
/// job that has GPUs.
pub fn choose(run: &Run) -> Result<Vec<Device>> {
    let cuda = match run.device {
        DeviceKind::Cpu => false,
        DeviceKind::Auto | DeviceKind::Cuda if Cuda::is_available() => true,
        DeviceKind::Cuda => return Err(Error::config(format!("run.device = \"cuda\": {}", why_no_cuda()))),
        DeviceKind::Auto => match gpus_of_job(|name| std::env::var(name).ok()) {
            None => false,
            Some(given) => {
                let why = why_no_cuda();
                return Err(Error::config(format!(
                    "Slurm has given this job GPUs ({given}), and the program sees none: {why}. To train on its CPUs \
                     nevertheless: --device cpu"
                )));
            }
        },
    };
    if !cuda {
        return Ok(vec![Device::Cpu; run.devices_per_rank.unwrap_or(1)]);
    }
    let visible = Cuda::device_count() as usize;
    let wanted = run.devices_per_rank.unwrap_or(visible.min(2));
    let local_rank = comm::launcher_local_rank().unwrap_or(0);
    if wanted > visible && std::env::var_os(SHARE).is_none() {
        return Err(Error::config(format!("run.devices_per_rank = {wanted}: this rank sees {visible} CUDA device(s)")));
    }
    Ok(assign(visible, wanted, local_rank).into_iter().map(Device::Cuda).collect())
}

/// A rank that sees no more devices than it wants takes them all (the launcher has sliced them); else the ranks of a
/// node take slices in turn, from the first again once the devices are used up. One that wants more has each several times.
fn assign(visible: usize, wanted: usize, local_rank: usize) -> Vec<usize> {
    let slices = (visible / wanted).max(1);
    let first = local_rank % slices * wanted;
    (first..first + wanted).map(|device| device % visible).collect()
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

/// The GPUs that Slurm has given to a job, as the variable that says so.
fn gpus_of_job(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    ["SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE"].iter().find_map(|name| {
        let value =
            variable(name).filter(|value| !value.is_empty() && (*name != "SLURM_GPUS_ON_NODE" || value != "0"))?;
        Some(format!("{name}={value}"))
    })
}

fn why_no_cuda() -> String {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let hidden =
        visible.filter(|visible| !visible.starts_with(|first: char| first.is_ascii_digit() || "GM".contains(first)));
    if !tch::utils::has_cuda() {
        "this libtorch was built without CUDA, or the program was linked without it; build with a CUDA libtorch (docs/clusters.md)"
            .into()
    } else if let Some(hidden) = hidden {
        format!("CUDA_VISIBLE_DEVICES={hidden} hides all of them (srun --gpus-per-task, the job's --gres)")
    } else if !Path::new("/proc/driver/nvidia/version").exists() {
        "this node has no NVIDIA driver (nvidia-smi)".into()
    } else {
        "libtorch finds no CUDA device; see nvidia-smi, and whether the driver is as new as libtorch's CUDA (docs/clusters.md)".into()
    }
}

/// A tensor of the host or of another device on `device`, a GPU or where it is. Nothing waits: the copy is a part of the
/// devices' work, in the order in which work is given to them; what comes from the host comes from pinned memory. In a
/// training step nothing else moves (`tests/host_copies.rs`).
pub fn send(tensor: &Tensor, device: Device) -> Tensor {
    match (tensor.device(), device) {
        (from, to) if from == to => tensor.shallow_clone(),
        (Device::Cpu, _) => tensor.pin_memory(device).to_device_(device, tensor.kind(), true, false),
        (_, Device::Cpu) => panic!("a copy to the host that nothing waits for would be read before it is there"),
        _ => tensor.to_device_(device, tensor.kind(), true, false),
    }
}

/// Bytes that are free on a GPU; `None`: it doesn't say. Asks the CUDA runtime that libtorch has loaded, since tch doesn't.
pub fn free_memory(device: Device) -> Option<u64> {
    let Device::Cuda(index) = device else { return None };
    let ask = move || {
        let function = |name: &CStr| {
            // SAFETY: looks a name up in what is loaded
            let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
            (!found.is_null()).then_some(found)
        };
        let (set, memory) = (function(c"cudaSetDevice")?, function(c"cudaMemGetInfo")?);
        // SAFETY: these are the types of the CUDA runtime's functions
        let (set, memory) = unsafe {
            (
                transmute::<*mut c_void, extern "C" fn(c_int) -> c_int>(set),
                transmute::<*mut c_void, extern "C" fn(*mut usize, *mut usize) -> c_int>(memory),
            )
        };
        let (mut free, mut total) = (0, 0);
        (set(index as c_int) == 0 && memory(&mut free, &mut total) == 0).then_some(free as u64)
    };
    // which device is current belongs to a thread, and setting it back would make a context on another GPU
    std::thread::spawn(ask).join().expect("asks and ends")
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
    fn slurm_says_whether_a_job_has_gpus() {
        let job = |set: &'static [(&str, &str)]| {
            gpus_of_job(|name| set.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.to_string()))
        };
        assert_eq!(job(&[]), None);
        assert_eq!(job(&[("SLURM_GPUS_ON_NODE", "0"), ("SLURM_JOB_GPUS", "")]), None);
        assert_eq!(job(&[("SLURM_GPUS_ON_NODE", "2")]).unwrap(), "SLURM_GPUS_ON_NODE=2");
        assert_eq!(job(&[("SLURM_GPUS_ON_NODE", "2"), ("SLURM_STEP_GPUS", "0")]).unwrap(), "SLURM_STEP_GPUS=0");
    }

    #[test]
    fn ranks_take_slices_in_turn_and_share_when_devices_run_out() {
        assert_eq!(assign(2, 2, 5), [0, 1], "sliced by the launcher");
        assert_eq!(assign(8, 2, 0), [0, 1]);
        assert_eq!(assign(8, 2, 3), [6, 7]);
        assert_eq!(assign(8, 2, 4), [0, 1], "more ranks than devices");
        assert_eq!(assign(4, 1, 6), [2]);
        assert_eq!(assign(3, 2, 1), [0, 1]);
        assert_eq!(assign(1, 2, 3), [0, 0], "AMLFS_SHARE_DEVICES");
    }
}
