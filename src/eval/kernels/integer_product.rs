//! Inner products of vectors of 16-bit integers, exact in 32 bits: an AVX2 instruction multiplies and adds twice as many of them as
//! f32s.
//!
//! Two neighbouring numbers of a vector are a pair and lie in one i32, the first one in its lower half.

/// Vectors of b that lie together, pair by pair.
pub const PANEL: usize = 16;
/// Rows of a that are multiplied with a panel at once: with `PANEL` as many sums as there are registers for.
const ROWS: usize = 6;
/// Rows of a that stay in a cache while the panels of b pass by.
const BLOCK: usize = 32 * ROWS;

/// Inner products of `ROWS` vectors with a panel's, or of the first of them.
type Sums = [[i32; PANEL]; ROWS];

/// The inner products of a [n, pairs] and b [panels, pairs, PANEL], which is m vectors and then zeros, times `factor`: [n, m]. Numbers
/// are at most 32,767, and the product of the lengths of two vectors is below 2^31: then no sum overflows.
pub fn integer_products(a: &[i32], b: &[i32], pairs: usize, m: usize, factor: f32, products: &mut [f32]) {
    assert!(pairs > 0 && m > 0 && a.len().is_multiple_of(pairs) && a.len() / pairs * m == products.len());
    assert!(b.len() == m.div_ceil(PANEL) * pairs * PANEL);
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it
        return unsafe { wide::products(a, b, pairs, m, factor, products) };
    }
    in_blocks(a, b, pairs, m, factor, products, in_turn);
}

/// `sums` gets up to `ROWS` rows of a, a panel of b and how many pairs a vector has.
#[inline(always)]
fn in_blocks(
    a: &[i32],
    b: &[i32],
    pairs: usize,
    m: usize,
    factor: f32,
    products: &mut [f32],
    sums: impl Fn(&[i32], &[i32], usize, &mut Sums),
) {
    let mut found = [[0; PANEL]; ROWS];
    for (a, products) in a.chunks(BLOCK * pairs).zip(products.chunks_mut(BLOCK * m)) {
        for (first, panel) in (0..m).step_by(PANEL).zip(b.chunks_exact(pairs * PANEL)) {
            for (a, products) in a.chunks(ROWS * pairs).zip(products.chunks_mut(ROWS * m)) {
                sums(a, panel, pairs, &mut found);
                for (row, sums) in products.chunks_exact_mut(m).zip(&found) {
                    let row = row[first..].iter_mut().zip(sums);
                    row.for_each(|(product, &sum)| *product = sum as f32 * factor);
                }
            }
        }
    }
}

fn in_turn(a: &[i32], panel: &[i32], pairs: usize, sums: &mut Sums) {
    let product = |a: i32, b: i32| i32::from(a as i16) * i32::from(b as i16) + (a >> 16) * (b >> 16);
    for (row, sums) in a.chunks_exact(pairs).zip(sums) {
        *sums = [0; PANEL];
        for (&a, b) in row.iter().zip(panel.as_chunks::<PANEL>().0) {
            sums.iter_mut().zip(b).for_each(|(sum, &b)| *sum += product(a, b));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32, _mm256_setzero_si256,
        _mm256_storeu_si256,
    };

    use super::{PANEL, ROWS, Sums, in_blocks};

    #[target_feature(enable = "avx2")]
    pub fn products(a: &[i32], b: &[i32], pairs: usize, m: usize, factor: f32, products: &mut [f32]) {
        in_blocks(a, b, pairs, m, factor, products, |a, panel, pairs, sums| match a.len() / pairs {
            1 => of_rows::<1>(a, panel, pairs, sums),
            2 => of_rows::<2>(a, panel, pairs, sums),
            3 => of_rows::<3>(a, panel, pairs, sums),
            4 => of_rows::<4>(a, panel, pairs, sums),
            5 => of_rows::<5>(a, panel, pairs, sums),
            _ => of_rows::<ROWS>(a, panel, pairs, sums),
        });
    }

    /// a [R, pairs], panel [pairs, PANEL].
    #[target_feature(enable = "avx2")]
    fn of_rows<const R: usize>(a: &[i32], panel: &[i32], pairs: usize, sums: &mut Sums) {
        assert!(R <= ROWS && a.len() == R * pairs && panel.len() == pairs * PANEL);
        let mut registers = [[_mm256_setzero_si256(); 2]; R];
        for pair in 0..pairs {
            // SAFETY: the lengths are as asserted
            let b = unsafe {
                let b = panel.as_ptr().add(pair * PANEL).cast();
                [_mm256_loadu_si256(b), _mm256_loadu_si256(b.add(1))]
            };
            for (row, sums) in registers.iter_mut().enumerate() {
                // SAFETY: the length is as asserted
                let a = _mm256_set1_epi32(unsafe { *a.get_unchecked(row * pairs + pair) });
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, b));
                }
            }
        }
        for (sums, registers) in sums.iter_mut().zip(registers) {
            let [low, high] = registers;
            // SAFETY: 16 numbers are two registers
            unsafe {
                _mm256_storeu_si256(sums.as_mut_ptr().cast(), low);
                _mm256_storeu_si256(sums.as_mut_ptr().add(PANEL / 2).cast(), high);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [rows, 2 pairs], up to the largest numbers that no sum overflows with.
    fn vectors(rows: usize, pairs: usize, seed: u64) -> Vec<Vec<i16>> {
        let largest = (46_340.0 / (2.0 * pairs as f64).sqrt()).min(32_767.0) as u64;
        let mut state = seed;
        let mut number = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % (2 * largest + 1)) as i64 - largest as i64
        };
        (0..rows).map(|_| (0..2 * pairs).map(|_| number() as i16).collect()).collect()
    }

    fn paired(numbers: &[i16]) -> Vec<i32> {
        numbers.as_chunks::<2>().0.iter().map(|&[low, high]| i32::from(low) & 0xffff | i32::from(high) << 16).collect()
    }

    #[test]
    fn products_are_exact_for_any_shape_with_and_without_wide_vectors() {
        for (n, m, pairs) in [(1, 1, 1), (7, 16, 3), (6, 17, 256), (200, 33, 20), (5, 250, 1), (11, 3, 50)] {
            let (a, b) = (vectors(n, pairs, 1), vectors(m, pairs, 2));
            let rows: Vec<i32> = a.iter().flat_map(|row| paired(row)).collect();
            let mut panels = vec![0; m.div_ceil(PANEL) * pairs * PANEL];
            for (j, vector) in b.iter().enumerate() {
                for (pair, numbers) in paired(vector).into_iter().enumerate() {
                    panels[(j / PANEL * pairs + pair) * PANEL + j % PANEL] = numbers;
                }
            }
            let exact = |a: &[i16], b: &[i16]| a.iter().zip(b).map(|(&a, &b)| i64::from(a) * i64::from(b)).sum::<i64>();
            let expected: Vec<f32> = a.iter().flat_map(|a| b.iter().map(|b| exact(a, b) as f32 * 0.5)).collect();
            let (mut found, mut in_turns) = (vec![0.0; n * m], vec![0.0; n * m]);
            integer_products(&rows, &panels, pairs, m, 0.5, &mut found);
            in_blocks(&rows, &panels, pairs, m, 0.5, &mut in_turns, in_turn);
            assert_eq!(found, expected, "{n} {m} {pairs}");
            assert_eq!(in_turns, expected, "{n} {m} {pairs}");
        }
    }
}
