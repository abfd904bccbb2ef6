//! Inner products in two steps, where only few of them matter: all of them fast with a bound of their error, then those that may
//! matter one by one. The results are those of the second step alone, so they have the same bits on every machine.
//!
//! The first step takes bfloat16 where the processor multiplies it, eight times as fast as f32 with AMX, and 16-bit integers with AVX2
//! alone, 1.7 times as fast. Libraries had faults there (oneDNN's bfloat16 convolutions of tiny images are wrong with AMX in libtorch
//! 2.11 and 2.13), so some products of each matrix are checked.

use tch::{Device, Kind, Tensor};

use super::inner_products::{has_one_dnn, product, to_vec};
use super::integer_product::{PANEL, integer_products};
use crate::tensor_memory::{Number, numbers, numbers_mut};

/// What `dot` adds up side by side.
const LANES: usize = 32;
/// Half a unit in the last place of bfloat16, which has 8 bits.
const UNIT: f32 = 1.0 / 256.0;
/// More than what sums of D products lose: D 2^-24 in the fast product, however it rounds, and as much in `dot`.
const SUM_UNIT: f32 = 1.0 / (1 << 22) as f32;
/// Products of each matrix that are checked.
const CHECKED: usize = 16;
/// More than the rounding of the bounds themselves.
const MARGIN: f32 = 1.01;
/// Of a vector of integers, before they are rounded: its numbers have 16 bits, and a product of two such vectors 31.
const LONGEST: f32 = 32_000.0;

/// How the fast products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fast {
    /// Factors and products in bfloat16, sums in f32.
    Brain,
    /// Factors in 16-bit integers, all of a matrix on one scale, and sums exact.
    Integer,
    /// f32 throughout, by oneDNN or by what libtorch has instead.
    Single { one_dnn: bool },
}

/// A fast product, as it lies in memory.
pub trait Approximate: Number {
    fn value(self) -> f32;
}

impl Approximate for f32 {
    fn value(self) -> f32 {
        self
    }
}

/// The upper half of an f32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Brain(u16);

impl Number for Brain {
    const KIND: Kind = Kind::BFloat16;
}

impl Approximate for Brain {
    fn value(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

/// Fast products of a [n, D] and b [m, D]: [n, m], contiguous.
pub enum Products {
    Brain(Tensor),
    Single(Tensor),
}

/// Features in the form that is multiplied.
#[derive(Debug)]
pub struct Prepared {
    /// In rows [N, ..]; integers of the right-hand side as `integer_products` has them.
    numbers: Tensor,
    vectors: usize,
    /// What 1 has become.
    scale: f32,
}

/// Which factor of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

impl Prepared {
    pub fn share(&self) -> Prepared {
        Prepared { numbers: self.numbers.shallow_clone(), ..*self }
    }

    /// Some vectors of a left-hand side.
    pub fn narrow(&self, first: usize, vectors: usize) -> std::result::Result<Prepared, tch::TchError> {
        Ok(Prepared { numbers: self.numbers.f_narrow(0, first as i64, vectors as i64)?, vectors, ..*self })
    }
}

impl Fast {
    /// The fastest on this machine for CPU features like these [N, D], N > 0.
    pub fn best(features: &Tensor) -> Fast {
        #[cfg(target_arch = "x86_64")]
        if features.device() == Device::Cpu {
            if std::is_x86_feature_detected!("avx512bf16") {
                return Fast::Brain;
            }
            // with AVX-512 f32 has as many products per instruction
            if std::is_x86_feature_detected!("avx2") && !std::is_x86_feature_detected!("avx512f") {
                return Fast::Integer;
            }
        }
        Fast::Single { one_dnn: has_one_dnn(features) }
    }

    /// Features [N, D] f32 in the form that is multiplied, how long they are, and how far the two forms are apart.
    pub fn prepare(self, features: &Tensor, side: Side) -> std::result::Result<(Prepared, Vec<Extent>), tch::TchError> {
        let norms = |of: &Tensor| to_vec(&of.f_norm_scalaropt_dim(2, [1i64].as_slice(), false)?);
        let (vectors, long) = (features.size()[0] as usize, norms(features)?);
        let prepared = |numbers, scale| Prepared { numbers, vectors, scale };
        let (prepared, lost) = match self {
            Fast::Brain => {
                let rounded = features.f_to_kind(Kind::BFloat16)?;
                let lost = norms(&(features - rounded.f_to_kind(Kind::Float)?))?;
                (prepared(rounded, 1.0), lost)
            }
            Fast::Integer => {
                let (rounded, scale) = integers(features, &long)?;
                let numbers = in_pairs(&rounded, side)?;
                let mut back = rounded;
                let lost = back.f_mul_scalar_(1.0 / f64::from(scale))?.f_sub_(features)?;
                (prepared(numbers, scale), norms(&lost)?)
            }
            Fast::Single { .. } => (prepared(features.shallow_clone(), 1.0), vec![0.0; vectors]),
        };
        Ok((prepared, long.into_iter().zip(lost).map(|(norm, lost)| Extent { norm, lost }).collect()))
    }

    /// Of a left-hand and a right-hand side that `prepare` has given.
    pub fn products(self, a: &Prepared, b: &Prepared) -> std::result::Result<Products, tch::TchError> {
        Ok(match self {
            Fast::Brain => Products::Brain(a.numbers.f_mm(&b.numbers.tr())?.f_contiguous()?),
            Fast::Integer => {
                let pairs = a.numbers.size()[1] as usize;
                let shape = [a.vectors as i64, b.vectors as i64];
                let products = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
                let factor = 1.0 / a.scale / b.scale;
                // SAFETY: nobody else has the tensor
                let all = unsafe { numbers_mut(&products) };
                integer_products(numbers(&a.numbers), numbers(&b.numbers), pairs, b.vectors, factor, all);
                Products::Single(products)
            }
            Fast::Single { one_dnn } => Products::Single(product(&a.numbers, &b.numbers, one_dnn)?),
        })
    }

    /// Whether the bound holds for some of the products of a [n, D] and b [m, D], of at most these extents.
    pub fn holds(
        self,
        products: &Products,
        (a, of_a): (&[f32], Extent),
        (b, of_b): (&[f32], Extent),
        dimensions: usize,
    ) -> bool {
        let (n, m) = (a.len() / dimensions, b.len() / dimensions);
        let fast = |i: usize| match products {
            Products::Brain(of) => numbers::<Brain>(of)[i].value(),
            Products::Single(of) => numbers::<f32>(of)[i],
        };
        let error = of_a.error_with(of_b, dimensions);
        (0..CHECKED.min(n * m)).all(|check| {
            // of rows and columns far apart, the last ones among them
            let (row, column) = (n - 1 - check * n / CHECKED, (m - 1 + check * (m / 2 + 1)) % m);
            let exact = dot(&a[row * dimensions..][..dimensions], &b[column * dimensions..][..dimensions]);
            let found = fast(row * m + column);
            // also for NaN
            found >= self.below(exact, error) && -found >= self.below(-exact, error)
        })
    }

    /// A fast product that is not larger than this is one of a pair whose `dot` is not larger than `score`, where `error` is what
    /// the two vectors' extents say. The product itself is rounded once more.
    pub fn below(self, score: f32, error: f32) -> f32 {
        let least = score - error;
        match self {
            Fast::Integer | Fast::Single { .. } => least,
            Fast::Brain if least > 0.0 => least / (1.0 + MARGIN * UNIT),
            Fast::Brain => least / (1.0 - MARGIN * UNIT),
        }
    }
}

/// Features [N, D], whose lengths are `long`, as integers in f32, and the scale that they are on.
fn integers(features: &Tensor, long: &[f32]) -> std::result::Result<(Tensor, f32), tch::TchError> {
    let scale = (LONGEST / long.iter().copied().fold(f32::MIN_POSITIVE, f32::max)).min(f32::MAX.sqrt());
    Ok(((features * f64::from(scale)).f_round_()?, scale))
}

/// Integers [N, D] in f32 as `integer_products` has them: [N, pairs] or [panels, pairs, PANEL].
fn in_pairs(integers: &Tensor, side: Side) -> std::result::Result<Tensor, tch::TchError> {
    let (vectors, dimensions, panel) = (integers.size()[0], integers.size()[1], PANEL as i64);
    let panels = (vectors + panel - 1) / panel;
    let rows = if side == Side::Left { vectors } else { panels * panel };
    let padding = [0, dimensions % 2, 0, rows - vectors];
    let numbers = integers.f_to_kind(Kind::Int16)?;
    let numbers = if padding == [0; 4] { numbers } else { numbers.f_constant_pad_nd(padding)? };
    let pairs = numbers.f_contiguous()?.f_view_dtype(Kind::Int)?;
    match side {
        Side::Left => Ok(pairs),
        Side::Right => pairs.f_view([panels, panel, -1])?.f_transpose(1, 2)?.f_contiguous(),
    }
}

/// How long a vector is, and how long what its prepared form has lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extent {
    pub norm: f32,
    pub lost: f32,
}

impl Extent {
    /// At least as far as both.
    pub fn or(self, other: Extent) -> Extent {
        Extent { norm: self.norm.max(other.norm), lost: self.lost.max(other.lost) }
    }

    /// How far the sum of the prepared vectors' products may be from `dot`'s: with a' and b' for the prepared ones it is
    /// |a (b - b') + (a - a') b'| <= |a| |b - b'| + |a - a'| |b'| (Cauchy and Schwarz), and what sums lose.
    pub fn error_with(self, other: Extent, dimensions: usize) -> f32 {
        let of_factors = self.norm * other.lost + self.lost * (other.norm + other.lost);
        let of_sums = dimensions as f32 * SUM_UNIT * (self.norm + self.lost) * (other.norm + other.lost);
        MARGIN * (of_factors + of_sums)
    }
}

/// The inner product, the same bits on every machine: f32, fused multiply-adds in 32 sums side by side.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        #[target_feature(enable = "avx2,fma")]
        fn wide(a: &[f32], b: &[f32]) -> f32 {
            dot_in_lanes(a, b)
        }
        // SAFETY: the processor has both
        return unsafe { wide(a, b) };
    }
    dot_in_lanes(a, b)
}

#[inline(always)]
fn dot_in_lanes(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] = a[lane].mul_add(b[lane], sums[lane]);
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum = a.mul_add(*b, *sum);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_is_the_sum_of_products_for_any_length_and_either_order() {
        for length in [0, 1, 31, 32, 33, 100, 512] {
            let a: Vec<f32> = (0..length).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
            let b: Vec<f32> = (0..length).map(|i| ((i * 53 % 89) as f32 - 44.0) / 64.0).collect();
            let exact: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let found = dot(&a, &b);
            assert!((f64::from(found) - exact).abs() <= 1e-6 * (1.0 + exact.abs()), "{length}: {found} {exact}");
            assert_eq!(found.to_bits(), dot(&b, &a).to_bits());
            assert_eq!(found.to_bits(), dot_in_lanes(&a, &b).to_bits(), "with and without wide vectors");
        }
    }

    #[test]
    fn wrong_products_are_noticed() {
        let random = |rows: i64| Tensor::rand([rows, 64], (Kind::Float, Device::Cpu)) - 0.5;
        for (n, m) in [(1, 1), (3, 2), (1024, 256), (1000, 201)] {
            let (a, b) = (random(n), random(m));
            for fast in [Fast::Brain, Fast::Integer, Fast::Single { one_dnn: false }] {
                let prepare = |of: &Tensor, side| {
                    let (prepared, extents) = fast.prepare(of, side).unwrap();
                    (prepared, extents.into_iter().fold(Extent::default(), Extent::or))
                };
                let ((a_prepared, of_a), (b_prepared, of_b)) = (prepare(&a, Side::Left), prepare(&b, Side::Right));
                let right = fast.products(&a_prepared, &b_prepared).unwrap();
                let holds = |products: &Products| fast.holds(products, (numbers(&a), of_a), (numbers(&b), of_b), 64);
                assert!(holds(&right), "{fast:?} {n} {m}");
                for change in [&|of: &Tensor| of + 3.0, &|of: &Tensor| of / 0.0, &|of: &Tensor| -(of + 2.0)]
                    as [&dyn Fn(&Tensor) -> Tensor; 3]
                {
                    let wrong = match &right {
                        Products::Brain(of) => Products::Brain(change(of)),
                        Products::Single(of) => Products::Single(change(of)),
                    };
                    assert!(!holds(&wrong), "{fast:?} {n} {m}");
                }
            }
        }
    }

    /// The pairs whose fast product is below what it must exceed are those that don't matter, and few others are looked at.
    #[test]
    fn no_pair_that_matters_is_below_and_few_others_are_above() {
        for (dimensions, scale) in [(512i64, 1.0), (17, 30.0), (64, 1e-3), (1, 2.0)] {
            let _guard = tch::no_grad_guard();
            let random = |rows: i64| Tensor::randn([rows, dimensions], (Kind::Float, Device::Cpu)) * scale;
            let (a, b) = (random(300), random(40));
            let rows = |of: &Tensor| -> Vec<Vec<f32>> { Vec::try_from(of).unwrap() };
            let (rows_a, rows_b) = (rows(&a), rows(&b));
            let exact: Vec<f32> = rows_a.iter().flat_map(|a| rows_b.iter().map(|b| dot(a, b))).collect();
            let single = |one_dnn| Fast::Single { one_dnn };
            for fast in [Fast::Brain, Fast::Integer, single(has_one_dnn(&a)), single(false)] {
                let (a, of_a) = fast.prepare(&a, Side::Left).unwrap();
                let (b, of_b) = fast.prepare(&b, Side::Right).unwrap();
                let error = |i: usize| of_a[i / 40].error_with(of_b[i % 40], dimensions as usize);
                let products = fast.products(&a, &b).unwrap();
                let products: Vec<f32> = match &products {
                    Products::Brain(of) => numbers::<Brain>(of).iter().map(|product| product.value()).collect(),
                    Products::Single(of) => numbers::<f32>(of).to_vec(),
                };
                let mut sorted = exact.clone();
                sorted.sort_by(f32::total_cmp);
                for share in [0.0, 0.5, 0.9, 0.999] {
                    let score = sorted[((sorted.len() - 1) as f64 * share) as usize];
                    let above = |i: usize| products[i] > fast.below(score, error(i));
                    let matter = |i: usize| exact[i] > score;
                    let count = |of: &dyn Fn(usize) -> bool| (0..exact.len()).filter(|&i| of(i)).count();
                    assert_eq!(count(&|i| matter(i) && !above(i)), 0, "{fast:?} at {share}");
                    let needless = count(&|i| above(i) && !matter(i));
                    assert!(needless <= exact.len() / 20, "{fast:?} at {share}: {needless}");
                }
            }
        }
    }
}
