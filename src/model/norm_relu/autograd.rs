//! The kernels as an operation of libtorch's autograd: autograd.cpp calls them, as tch has no way to give an operation a gradient.

use std::ffi::{CStr, c_char, c_void};

use tch::Tensor;

use super::Norm;
use super::kernels::{self, Backward, Channels, Gradients, Shape, Statistics};

/// Of what libtorch says of an error.
const MESSAGE: usize = 1000;

#[repr(C)]
struct ForwardArguments {
    rows: usize,
    channels: usize,
    x: *const f32,
    shortcut: *const f32,
    weight: *const f32,
    bias: *const f32,
    eps: f64,
    momentum: f64,
    y: *mut f32,
    running_mean: *mut f32,
    running_var: *mut f32,
    mean: *mut f64,
    variance: *mut f64,
}

#[repr(C)]
struct BackwardArguments {
    rows: usize,
    channels: usize,
    dy: *const f32,
    x: *const f32,
    y: *const f32,
    weight: *const f32,
    bias: *const f32,
    mean: *const f64,
    variance: *const f64,
    eps: f64,
    dx: *mut f32,
    dshortcut: *mut f32,
    dweight: *mut f32,
    dbias: *mut f32,
}

unsafe extern "C" {
    #[allow(clippy::too_many_arguments)]
    fn amlfs_norm_relu(
        x: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        shortcut: *const c_void,
        running_mean: *const c_void,
        running_var: *const c_void,
        momentum: f64,
        eps: f64,
        error: *mut c_char,
        size: usize,
    ) -> *mut c_void;

    fn amlfs_in_parallel(count: usize, part: extern "C" fn(*const c_void, usize, usize), context: *const c_void);
}

/// Calls `f` with 0 to `count` on as many threads as libtorch computes with.
pub fn in_parallel<F: Fn(usize) + Sync>(count: usize, f: F) {
    extern "C" fn part<F: Fn(usize) + Sync>(context: *const c_void, begin: usize, end: usize) {
        // SAFETY: `f` below, which outlives the calls
        let f = unsafe { &*context.cast::<F>() };
        (begin..end).for_each(f);
    }
    // SAFETY: it returns when all parts have been called
    unsafe { amlfs_in_parallel(count, part::<F>, (&raw const f).cast()) }
}

/// The operation on tensors that `Norm::fits` has looked at.
pub fn apply(norm: &Norm, x: &Tensor, shortcut: Option<&Tensor>) -> Tensor {
    let mut error = [0 as c_char; MESSAGE];
    let pointer = |tensor: &Tensor| tensor.as_ptr().cast();
    // SAFETY: all of them are tensors that outlive the call; libtorch counts its own references
    let result = unsafe {
        amlfs_norm_relu(
            pointer(x),
            pointer(norm.weight),
            pointer(norm.bias),
            shortcut.map_or(std::ptr::null(), pointer),
            pointer(norm.running_mean),
            pointer(norm.running_var),
            norm.momentum,
            norm.eps,
            error.as_mut_ptr(),
            MESSAGE,
        )
    };
    if result.is_null() {
        // SAFETY: it ends with zero, as libtorch writes all but the last byte
        let why = unsafe { CStr::from_ptr(error.as_ptr()) };
        // as tch does it for all of its operations
        panic!("norm_relu: {}", why.to_string_lossy());
    }
    // SAFETY: made for us
    unsafe { Tensor::from_ptr(result.cast()) }
}

unsafe fn read<'a, T>(start: *const T, count: usize) -> Option<&'a [T]> {
    // SAFETY: the caller says that there are so many, or none
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start, count) })
}

unsafe fn write<'a, T>(start: *mut T, count: usize) -> Option<&'a mut [T]> {
    // SAFETY: the caller says that there are so many, or none, and that nobody else has them
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts_mut(start, count) })
}

/// SAFETY: all pointers but the shortcut's lead to [rows, C] and [C] numbers; what is written is nobody else's.
#[unsafe(no_mangle)]
unsafe extern "C" fn amlfs_norm_relu_forward(arguments: &ForwardArguments) {
    let ForwardArguments { rows, channels, eps, momentum, .. } = *arguments;
    // SAFETY: as above
    unsafe {
        let of_channels = |start| read(start, channels).expect("numbers");
        let x = read(arguments.x, rows * channels).expect("numbers");
        let shortcut = read(arguments.shortcut, rows * channels);
        let of = Channels { weight: of_channels(arguments.weight), bias: of_channels(arguments.bias), eps };
        let y = write(arguments.y, rows * channels).expect("numbers");
        let found = kernels::forward(Shape { rows, channels }, x, shortcut, &of, y);
        let written = |start| write(start, channels).expect("numbers");
        write(arguments.mean, channels).expect("numbers").copy_from_slice(&found.mean);
        write(arguments.variance, channels).expect("numbers").copy_from_slice(&found.variance);
        let (running_mean, running_var) = (written(arguments.running_mean), written(arguments.running_var));
        // the running variance is that of the population
        let unbiased = rows as f64 / (rows as f64 - 1.0);
        for c in 0..channels {
            let moved = |running: f32, to: f64| ((1.0 - momentum) * f64::from(running) + momentum * to) as f32;
            running_mean[c] = moved(running_mean[c], found.mean[c]);
            running_var[c] = moved(running_var[c], found.variance[c] * unbiased);
        }
    }
}

/// SAFETY: all pointers but those of y, dx and dshortcut lead to [rows, C] and [C] numbers; what is written is nobody else's.
#[unsafe(no_mangle)]
unsafe extern "C" fn amlfs_norm_relu_backward(arguments: &BackwardArguments) {
    let BackwardArguments { rows, channels, eps, .. } = *arguments;
    let numbers = rows * channels;
    // SAFETY: as above
    unsafe {
        let of_channels = |start| read(start, channels).expect("numbers");
        let statistic = |start| read(start, channels).expect("numbers").to_vec();
        let statistics = Statistics { mean: statistic(arguments.mean), variance: statistic(arguments.variance) };
        let of = Backward {
            dy: read(arguments.dy, numbers).expect("numbers"),
            x: read(arguments.x, numbers).expect("numbers"),
            weight: of_channels(arguments.weight),
            bias: of_channels(arguments.bias),
            statistics: &statistics,
            eps,
        };
        let gradients = Gradients {
            dx: write(arguments.dx, numbers),
            dweight: write(arguments.dweight, channels).expect("numbers"),
            dbias: write(arguments.dbias, channels).expect("numbers"),
        };
        let shortcut = read(arguments.y, numbers).zip(write(arguments.dshortcut, numbers));
        kernels::backward(Shape { rows, channels }, &of, shortcut, gradients);
    }
}
