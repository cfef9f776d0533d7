//! A log-linear histogram of microseconds: 16 bins an octave, so a quantile errs by 3.1 % at most.
//!
//! Integers only: the bin of a value comes from its leading zeros and its next four bits, so replicas agree to the
//! bit. Merging adds. The layout is HdrHistogram's (Gil Tene) with four bits of precision.

/// Counts by bin; sparse, ascending.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Histogram {
    pub(crate) bins: Vec<(u16, u64)>,
}

/// Values beyond ten minutes count as ten minutes.
pub const MAX_MICROS: u64 = 600_000_000;

/// How many bins there are: the highest value's, and all below it.
pub const BINS: u16 = bin_of(MAX_MICROS) + 1;

// === impl Histogram ===

impl Histogram {
    /// Counts one value, in microseconds.
    pub fn record(&mut self, micros: u64) {
        self.add(bin_of(micros), 1);
    }

    /// From bins as a message states them; `None` unless they ascend, exist and count something.
    pub fn from_bins(bins: Vec<(u16, u64)>) -> Option<Self> {
        let ascend = bins.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let sound = bins.iter().all(|&(bin, count)| bin < BINS && count > 0);
        (ascend && sound).then_some(Self { bins })
    }

    /// The bins that count something, ascending.
    pub fn bins(&self) -> &[(u16, u64)] {
        &self.bins
    }

    /// Whether nothing was counted.
    pub const fn is_empty(&self) -> bool {
        self.bins.is_empty()
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.bins
            .iter()
            .fold(0, |sum, &(_, count)| sum.saturating_add(count))
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Self) {
        if self.bins.is_empty() {
            self.bins.clone_from(&other.bins);
            return;
        }
        let mut from = 0;
        for &(bin, count) in &other.bins {
            match self.bins[from..].binary_search_by_key(&bin, |&(b, _)| b) {
                Ok(at) => {
                    from += at;
                    let slot = &mut self.bins[from].1;
                    *slot = slot.saturating_add(count);
                }
                Err(at) => {
                    from += at;
                    self.bins.insert(from, (bin, count));
                }
            }
        }
    }

    /// The value, in microseconds, that `permille` of the counted values do not pass; `None` if there are none.
    pub fn quantile(&self, permille: u16) -> Option<u64> {
        quantile(self.bins.iter().copied(), permille)
    }

    fn add(&mut self, bin: u16, count: u64) {
        match self.bins.binary_search_by_key(&bin, |&(b, _)| b) {
            Ok(at) => self.bins[at].1 = self.bins[at].1.saturating_add(count),
            Err(at) => self.bins.insert(at, (bin, count)),
        }
    }
}

/// Adds up many histograms: sparse while few bins count something and little was added, then with a slot for every bin.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    sparse: Histogram,
    dense: Option<Box<[u64; BINS as usize]>>,
    /// How many bins were added while it is sparse.
    added: usize,
}

/// Bins beyond which a slot for each is smaller than a list.
const SPARSE: usize = 64;
/// Additions after which searching the list has cost more than a slot for each bin would.
const SEARCHES: usize = 256;

// === impl Sum ===

impl Sum {
    pub(crate) fn add(&mut self, other: &Histogram) {
        if let Some(dense) = &mut self.dense {
            add_dense(dense, other);
            return;
        }
        self.sparse.merge(other);
        self.spread(other.bins.len());
    }

    /// The slots of all bins, if they are spread out.
    pub(crate) fn slots(&mut self) -> Option<&mut [u64; BINS as usize]> {
        self.dense.as_deref_mut()
    }

    /// Counts in one bin; one that does not exist is left out.
    pub(crate) fn add_bin(&mut self, bin: u16, count: u64) {
        if let Some(dense) = &mut self.dense {
            if let Some(slot) = dense.get_mut(usize::from(bin)) {
                *slot = slot.saturating_add(count);
            }
        } else if bin < BINS && count > 0 {
            self.sparse.add(bin, count);
            self.spread(1);
        }
    }

    fn spread(&mut self, added: usize) {
        self.added += added;
        if self.sparse.bins.len() > SPARSE || self.added > SEARCHES {
            let dense = self.dense.insert(Box::new([0; BINS as usize]));
            add_dense(dense, &self.sparse);
            self.sparse = Histogram::default();
        }
    }

    /// What was counted.
    pub(crate) fn into_histogram(self) -> Histogram {
        let Some(dense) = self.dense else {
            return self.sparse;
        };
        let bins = (0..BINS).zip(dense.iter().copied());
        Histogram {
            bins: bins.filter(|&(_, count)| count > 0).collect(),
        }
    }

    pub(crate) fn quantile(&self, permille: u16) -> Option<u64> {
        match &self.dense {
            Some(dense) => quantile((0..BINS).zip(dense.iter().copied()), permille),
            None => self.sparse.quantile(permille),
        }
    }
}

fn add_dense(dense: &mut [u64; BINS as usize], other: &Histogram) {
    for &(bin, count) in &other.bins {
        if let Some(slot) = dense.get_mut(usize::from(bin)) {
            *slot = slot.saturating_add(count);
        }
    }
}

/// The bin of a value: values below 16 have their own, above that 16 bins share an octave.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the largest value is in bin 417"
)]
const fn bin_of(micros: u64) -> u16 {
    let value = if micros > MAX_MICROS {
        MAX_MICROS
    } else {
        micros
    };
    if value < 16 {
        return value as u16;
    }
    let octave = value.ilog2();
    let mantissa = (value >> (octave - 4)) & 15;
    ((octave - 3) * 16) as u16 + mantissa as u16
}

/// The middle of a bin, rounded up.
const fn midpoint(bin: u16) -> u64 {
    if bin < 16 {
        return bin as u64;
    }
    let shift = bin / 16 - 1;
    let low = (16 + (bin % 16) as u64) << shift;
    low + (1 << shift) / 2
}

fn quantile(bins: impl Iterator<Item = (u16, u64)> + Clone, permille: u16) -> Option<u64> {
    let total: u128 = bins.clone().map(|(_, count)| u128::from(count)).sum();
    let rank = (total * u128::from(permille.min(1_000)))
        .div_ceil(1_000)
        .max(1);
    let mut seen = 0;
    bins.into_iter()
        .find(|&(_, count)| {
            seen += u128::from(count);
            seen >= rank
        })
        .map(|(bin, _)| midpoint(bin))
}
