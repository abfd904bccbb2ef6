// What Rust can't say to libtorch: an operation with a gradient of its own, and libtorch's threads. autograd.rs is the other side.

#include <cstddef>
#include <cstring>
#include <exception>
#include <optional>

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

struct ForwardArguments {
    size_t rows, channels;
    const float *x, *shortcut, *weight, *bias;
    double eps, momentum;
    float *y, *running_mean, *running_var;
    double *mean, *variance;
};

struct BackwardArguments {
    size_t rows, channels;
    const float *dy, *x, *y, *weight, *bias;
    const double *mean, *variance;
    double eps;
    float *dx, *dshortcut, *dweight, *dbias;
};

// in autograd.rs
extern "C" void amlfs_norm_relu_forward(const ForwardArguments*);
extern "C" void amlfs_norm_relu_backward(const BackwardArguments*);

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Null for a tensor that is not there.
float* numbers(const Tensor& tensor) {
    return tensor.defined() ? tensor.data_ptr<float>() : nullptr;
}

// statistics [2, C] f64: means and variances.
double* means(const Tensor& statistics) {
    return statistics.data_ptr<double>();
}

// x [N, C, H, W] f32 on the CPU, channels_last, and shortcut like it or none.
struct NormRelu : torch::autograd::Function<NormRelu> {
    static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight, const Tensor& bias,
                          const std::optional<Tensor>& shortcut, const Tensor& running_mean, const Tensor& running_var,
                          double momentum, double eps) {
        auto y = at::empty_like(x);
        auto statistics = at::empty({2, x.size(1)}, x.options().dtype(at::kDouble));
        auto channels = static_cast<size_t>(x.size(1));
        ForwardArguments arguments{static_cast<size_t>(x.numel()) / channels, channels, numbers(x), numbers(shortcut.value_or(Tensor())),
                                   numbers(weight), numbers(bias), eps, momentum, numbers(y), numbers(running_mean),
                                   numbers(running_var), means(statistics), means(statistics) + channels};
        amlfs_norm_relu_forward(&arguments);
        // without a shortcut y follows from x
        context->save_for_backward({x, weight, bias, statistics, shortcut ? y : Tensor()});
        context->saved_data["eps"] = eps;
        return y;
    }

    static variable_list backward(AutogradContext* context, variable_list gradients) {
        auto saved = context->get_saved_variables();
        const auto &x = saved[0], &weight = saved[1], &bias = saved[2], &statistics = saved[3], &y = saved[4];
        auto dy = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
        auto dx = context->needs_input_grad(0) ? at::empty_like(x) : Tensor();
        auto dshortcut = y.defined() ? at::empty_like(x) : Tensor();
        auto dweight = at::empty_like(weight), dbias = at::empty_like(weight);
        auto channels = static_cast<size_t>(x.size(1));
        BackwardArguments arguments{static_cast<size_t>(x.numel()) / channels, channels, numbers(dy), numbers(x),
                                    numbers(y), numbers(weight), numbers(bias), means(statistics),
                                    means(statistics) + channels, context->saved_data["eps"].toDouble(), numbers(dx),
                                    numbers(dshortcut), numbers(dweight), numbers(dbias)};
        amlfs_norm_relu_backward(&arguments);
        return {dx, dweight, dbias, dshortcut, Tensor(), Tensor(), Tensor(), Tensor()};
    }
};

}  // namespace

// The result, to be owned by the caller; null after an error, which is then in `error` [size].
extern "C" Tensor* amlfs_norm_relu(const Tensor* x, const Tensor* weight, const Tensor* bias, const Tensor* shortcut,
                                   const Tensor* running_mean, const Tensor* running_var, double momentum, double eps,
                                   char* error, size_t size) {
    try {
        return new Tensor(NormRelu::apply(*x, *weight, *bias, shortcut ? std::optional(*shortcut) : std::nullopt, *running_mean,
                                          *running_var, momentum, eps));
    } catch (const std::exception& why) {
        std::strncpy(error, why.what(), size - 1);
        return nullptr;
    }
}

// Calls `part` with the ends of parts of 0 to count, on as many threads as libtorch computes with.
extern "C" void amlfs_in_parallel(size_t count, void (*part)(const void*, size_t, size_t), const void* context) {
    at::parallel_for(0, static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end) {
        part(context, static_cast<size_t>(begin), static_cast<size_t>(end));
    });
}
