//! A Bayesian linear regression, kept as the sums that it is made of.
//!
//! `y = x'b + e`, with Gaussian noise `e` of unknown variance `s` and a Gaussian prior of `b` whose
//! variances are `s` times a given ratio: the normal-inverse-gamma model (Gelman et al., Bayesian Data
//! Analysis, 3rd ed., section 14.8). All that the posterior needs of the data are `sum of x x'`,
//! `sum of x y` and `sum of y^2`, so learning is an addition and what the prior is can be said when
//! the question is asked: that is how an agent with little of its own leans on the pool *as it is now*.
//!
//! # Censoring
//!
//! Of some observations only `y >= c` is known. They are in `sum of x x'` and have sums of their own
//! over `c`. Expectation maximisation (Dempster, Laird and Rubin, JRSS B 39, 1977; the Tobit model of
//! Amemiya, Advanced Econometrics, 1985, section 10.4.1) puts each at its expected place under the
//! present fit: `c` plus the mean excess over `c`, taken where the censored ones lie on average.

use serde::{Deserialize, Serialize};

use super::hex_numbers;
use super::normal;

/// Rows of one regression, the intercept included.
pub(super) const ROWS_MAX: usize = 48;
/// Prior observations of the noise.
const NOISE_WEIGHT: f64 = 4.0;
/// Steps of expectation maximisation. They get slow only where nearly everything is censored, and
/// there is little to be known.
const STEPS_MAX: usize = 100;
/// The step that ends it, in standard deviations of the noise.
const STEP_MIN: f64 = 1e-5;
/// Observations after which all are counted half: older ones fade, and an agent that changes is
/// followed. Between one and two times this many count.
const MEMORY: f64 = 5_000.0;

/// A row of each regression that is active, and its `x`.
pub(super) type Row = (u8, f64);

/// One number per row of the tenant.
pub(super) type PerRow = [f64; ROWS_MAX];

/// Sums over observations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sums {
    /// The tenant's number of each row, the intercept's, 0, first.
    rows: Vec<u8>,
    /// Observations, censored ones included.
    weight: f64,
    /// `x x'`, the lower triangle, row after row.
    #[serde(with = "hex_numbers")]
    gram: Vec<f64>,
    /// `x y` of those not censored.
    #[serde(with = "hex_numbers")]
    product: Vec<f64>,
    /// `y^2` of those not censored.
    squares: f64,
    censored: Option<Box<Censored>>,
}

/// Sums over the censored observations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Censored {
    weight: f64,
    #[serde(with = "hex_numbers")]
    x: Vec<f64>,
    /// `x c`
    #[serde(with = "hex_numbers")]
    product: Vec<f64>,
    /// `c^2`
    squares: f64,
}

/// Memory for sums, of all tenants together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Numbers in them.
    pub(super) numbers: usize,
    pub(super) numbers_max: usize,
}

/// Where the lower triangle holds (row, column), column <= row.
fn place(row: usize, column: usize) -> usize {
    row * (row + 1) / 2 + column
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Sums {
    /// Gives active rows their place, as far as there is room.
    pub(super) fn admit(&mut self, x: &[Row], room: &mut Room) {
        for &(row, _) in x {
            let rows = self.rows.len();
            let more = rows + 2;
            if self.rows.contains(&row) || (row > 0 && room.numbers + more > room.numbers_max) {
                continue;
            }
            room.numbers += more;
            self.rows.push(row);
            self.gram.extend(std::iter::repeat_n(0.0, rows + 1));
            self.product.push(0.0);
            if let Some(censored) = &mut self.censored {
                censored.x.push(0.0);
                censored.product.push(0.0);
            }
        }
    }

    /// Numbers held, as counted in [`Room`].
    pub(super) fn numbers(&self) -> usize {
        self.gram.len() + self.product.len()
    }

    /// Places of those active rows that this regression has, and their `x`.
    fn places(&self, x: &[Row]) -> impl Iterator<Item = (usize, f64)> {
        x.iter().filter_map(|&(row, x)| Some((self.rows.iter().position(|r| *r == row)?, x)))
    }

    fn add_gram(&mut self, x: &[Row]) -> Vec<(usize, f64)> {
        if self.weight >= 2.0 * MEMORY {
            self.halve();
        }
        self.weight += 1.0;
        let places: Vec<(usize, f64)> = self.places(x).collect();
        for &(row, x) in &places {
            for &(column, y) in places.iter().filter(|(column, _)| *column <= row) {
                self.gram[place(row, column)] += x * y;
            }
        }
        places
    }

    fn halve(&mut self) {
        let halve = |numbers: &mut [f64]| numbers.iter_mut().for_each(|number| *number *= 0.5);
        halve(&mut self.gram);
        halve(&mut self.product);
        self.weight *= 0.5;
        self.squares *= 0.5;
        if let Some(censored) = &mut self.censored {
            halve(&mut censored.x);
            halve(&mut censored.product);
            censored.weight *= 0.5;
            censored.squares *= 0.5;
        }
    }

    /// Learns that `y` was observed.
    pub(super) fn add(&mut self, x: &[Row], y: f64) {
        for (row, x) in self.add_gram(x) {
            self.product[row] += x * y;
        }
        self.squares += y * y;
    }

    /// Learns that `y` was at least `limit`.
    pub(super) fn add_censored(&mut self, x: &[Row], limit: f64) {
        let places = self.add_gram(x);
        let rows = self.rows.len();
        let censored = self.censored.get_or_insert_with(|| {
            let zeros = vec![0.0; rows];
            Box::new(Censored { x: zeros.clone(), product: zeros, ..Censored::default() })
        });
        for (row, x) in places {
            censored.x[row] += x;
            censored.product[row] += x * limit;
        }
        censored.weight += 1.0;
        censored.squares += limit * limit;
    }

    /// An observation of late was `to`, not `from`.
    pub(super) fn correct(&mut self, x: &[Row], from: f64, to: f64) {
        let places: Vec<(usize, f64)> = self.places(x).collect();
        for (row, x) in places {
            self.product[row] += x * (to - from);
        }
        self.squares += to * to - from * from;
    }

    /// Observations that were not censored.
    pub(super) fn observed(&self) -> f64 {
        self.weight - self.censored.as_ref().map_or(0.0, |censored| censored.weight)
    }

    /// Mean and variance of what was observed, whatever the rows; `None` with nothing.
    pub(super) fn moments(&self) -> Option<(f64, f64)> {
        let observed = self.observed();
        let mean = self.product.first().map(|sum| sum / observed).filter(|_| observed > 0.0)?;
        Some((mean, (self.squares / observed - mean * mean).max(0.0)))
    }

    /// Whether the parts fit together, for a tenant with `rows` rows.
    pub(super) fn is_sound(&self, rows: usize) -> bool {
        let count = self.rows.len();
        let distinct = (1..count).all(|row| !self.rows[..row].contains(&self.rows[row]));
        let finite = |numbers: &[f64]| numbers.iter().all(|number| number.is_finite());
        let censored = self.censored.as_deref();
        let length = |numbers: &[f64], wanted: usize| numbers.len() == wanted && finite(numbers);
        distinct
            && count <= ROWS_MAX
            && self.rows.first().is_none_or(|row| *row == 0)
            && self.rows.iter().all(|row| usize::from(*row) < rows)
            && length(&self.gram, count * (count + 1) / 2)
            && length(&self.product, count)
            && finite(&[self.weight, self.squares])
            && censored.is_none_or(|censored| {
                length(&censored.x, count)
                    && length(&censored.product, count)
                    && finite(&[censored.weight, censored.squares])
            })
    }
}

/// What is believed before an observation, by the tenant's rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prior {
    /// Of the coefficients.
    pub(super) mean: PerRow,
    /// Their variances as multiples of the noise's, > 0.
    pub(super) ratio: PerRow,
    /// Variance of the noise, > 0.
    pub(super) noise: f64,
    /// Which rows the regression is over: what the others explain is noise.
    pub(super) rows: [bool; ROWS_MAX],
}

/// A regression under a prior.
#[derive(Debug)]
pub(super) struct Fit<'a> {
    prior: &'a Prior,
    rows: Vec<u8>,
    /// Cholesky's factor of the posterior precision (times the noise's variance), lower triangle.
    factor: Vec<f64>,
    coefficients: Vec<f64>,
    /// Posterior mean of the variance of the noise, about.
    pub(super) noise: f64,
    /// Degrees of freedom of that.
    pub(super) degrees: f64,
}

/// What is believed of the mean of `y` at some `x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) mean: f64,
    /// Of the mean; the noise is not in it.
    pub(super) variance: f64,
    /// How much the prior mean of the intercept counts in it, `0..=1`.
    pub(super) leaning: f64,
}

impl Sums {
    pub(super) fn fit<'a>(&'a self, prior: &'a Prior) -> Fit<'a> {
        let places: Vec<usize> = (0..self.rows.len())
            .filter(|place| prior.rows[usize::from(self.rows[*place])])
            .collect();
        let rows: Vec<u8> = places.iter().map(|place| self.rows[*place]).collect();
        let taken =
            |numbers: &[f64]| -> Vec<f64> { places.iter().map(|place| numbers[*place]).collect() };
        let mut factor = Vec::with_capacity(place(rows.len(), 0));
        let mut right = taken(&self.product);
        let mut squares = self.squares;
        for (row, a) in places.iter().enumerate() {
            factor.extend(places[..=row].iter().map(|b| self.gram[place(*a, *b)]));
            let by_row = usize::from(rows[row]);
            let (mean, ratio) = (prior.mean[by_row], prior.ratio[by_row]);
            factor[place(row, row)] += 1.0 / ratio;
            right[row] += mean / ratio;
            squares += mean * mean / ratio;
        }
        cholesky(&mut factor, rows.len());
        let degrees = NOISE_WEIGHT + self.weight;
        let solve = |right: &[f64], squares: f64| {
            let coefficients = solved(&factor, right);
            // What is left of the squares; rounding must not make it negative.
            let rest = (squares - dot(&coefficients, right)).max(1e-13 * squares);
            let noise = (NOISE_WEIGHT * prior.noise + rest) / degrees;
            (coefficients, noise.max(f64::MIN_POSITIVE))
        };
        let (coefficients, noise) = match &self.censored {
            None => solve(&right, squares),
            Some(censored) => {
                let (x, product) = (taken(&censored.x), taken(&censored.product));
                let censored = Censored { x, product, ..*censored.as_ref() };
                maximised(&censored, &right, squares, &solve)
            }
        };
        Fit { prior, rows, factor, coefficients, noise, degrees }
    }
}

/// Expectation maximisation: `right` and `squares` are those of what was observed.
fn maximised(
    censored: &Censored,
    right: &[f64],
    squares: f64,
    solve: &impl Fn(&[f64], f64) -> (Vec<f64>, f64),
) -> (Vec<f64>, f64) {
    let Censored { weight, x, product, squares: limits } = censored;
    // Mean excess over the limit, and its variance.
    let (mut excess, mut variance) = (0.0, 0.0);
    for step in 1.. {
        let right: Vec<f64> =
            (0..right.len()).map(|row| right[row] + product[row] + excess * x[row]).collect();
        let placed = limits + 2.0 * excess * product[0] + weight * (excess * excess + variance);
        let (coefficients, noise) = solve(&right, squares + placed);
        let spread = noise.sqrt();
        let z = (product[0] - dot(x, &coefficients)) / weight / spread;
        let hazard = normal::hazard(z);
        let next = spread * (hazard - z);
        let change = (next - excess).abs();
        excess = next;
        variance = (noise * (1.0 + z * hazard - hazard * hazard)).max(0.0);
        if change <= STEP_MIN * spread || step == STEPS_MAX {
            return (coefficients, noise);
        }
    }
    unreachable!("the loop has no end but its return")
}

impl Fit<'_> {
    /// What is believed at `x`. Rows that the regression does not have are as the prior has them.
    pub(super) fn at(&self, x: &[Row]) -> Point {
        let mut known = vec![0.0; self.rows.len()];
        let (mut mean, mut variance, mut leaning) = (0.0, 0.0, 0.0);
        for &(row, x) in x {
            if let Some(place) = self.rows.iter().position(|known| *known == row) {
                known[place] = x;
                continue;
            }
            let row = usize::from(row);
            mean += x * self.prior.mean[row];
            variance += x * x * self.prior.ratio[row] * self.noise;
            leaning += f64::from(u8::from(row == 0));
        }
        let gains = solved(&self.factor, &known);
        if let Some(gain) = gains.first() {
            leaning += (gain / self.prior.ratio[0]).clamp(0.0, 1.0);
        }
        mean += dot(&known, &self.coefficients);
        variance += self.noise * dot(&known, &gains).max(0.0);
        Point { mean, variance, leaning }
    }

    /// The coefficients by the tenant's rows; 0 where there is none.
    pub(super) fn coefficients(&self) -> PerRow {
        let mut by_row = [0.0; ROWS_MAX];
        for (row, coefficient) in self.rows.iter().zip(&self.coefficients) {
            by_row[usize::from(*row)] = *coefficient;
        }
        by_row
    }
}

/// Turns the lower triangle of a positive definite matrix into its Cholesky factor.
fn cholesky(matrix: &mut [f64], rows: usize) {
    for row in 0..rows {
        for column in 0..=row {
            let (a, b) = (place(row, 0), place(column, 0));
            let done = dot(&matrix[a..a + column], &matrix[b..b + column]);
            let rest = matrix[a + column] - done;
            matrix[a + column] = if row == column {
                // The prior keeps it positive, up to rounding.
                rest.max(1e-12 * matrix[a + column]).max(f64::MIN_POSITIVE).sqrt()
            } else {
                rest / matrix[place(column, column)]
            };
        }
    }
}

/// Solves `L L' b = right` for the lower triangle `L`.
fn solved(factor: &[f64], right: &[f64]) -> Vec<f64> {
    let rows = right.len();
    let mut b = right.to_vec();
    for row in 0..rows {
        let line = &factor[place(row, 0)..place(row, row)];
        b[row] = (b[row] - dot(line, &b[..row])) / factor[place(row, row)];
    }
    for row in (0..rows).rev() {
        b[row] /= factor[place(row, row)];
        let value = b[row];
        for column in 0..row {
            b[column] -= factor[place(row, column)] * value;
        }
    }
    b
}
