//! Samples of one workload, and the table of them.

use crate::Workload;
use crate::peers::Peer;

/// One proxy in one round.
#[derive(Clone, Copy)]
pub struct Sample {
    pub micros: f64,
    pub requests: f64,
    pub bad: f64,
}

/// Of one workload: by proxy, then by round.
pub struct Samples(Vec<Vec<Sample>>);

impl Samples {
    pub fn new(peers: usize) -> Samples {
        Samples(vec![Vec::new(); peers])
    }

    pub fn push(&mut self, peer: usize, sample: Sample) {
        self.0[peer].push(sample);
    }

    pub fn print(&self, workload: &Workload, peers: &[Peer]) {
        let base = peers.iter().position(|peer| peer.name == "haproxy").map(|index| &self.0[index]);
        let (name, what) = (workload.name, workload.what);
        println!("\n{name} {what}, {} connections: CPU us per request", workload.connections);
        println!(
            "  {:<12} {:>8} {:>8} {:>8}   {:>7} {:>15}   {:>9}",
            "", "min", "median", "max", "ratio", "(min-max)", "requests"
        );
        for (peer, samples) in peers.iter().zip(&self.0) {
            let micros = Spread::of(samples.iter().map(|sample| sample.micros));
            let ratio = base.map(|base| Spread::of(samples.iter().zip(base).map(|(own, its)| own.micros / its.micros)));
            let requests: f64 = samples.iter().map(|sample| sample.requests).sum();
            let bad: f64 = samples.iter().map(|sample| sample.bad).sum();
            println!(
                "  {:<12} {:>8.1} {:>8.1} {:>8.1}   {}   {requests:>9.0}{}{}",
                peer.name,
                micros.min,
                micros.median,
                micros.max,
                ratio.map_or(" ".repeat(23), |r| format!("{:>7.2}   ({:.2} - {:.2})", r.median, r.min, r.max)),
                ratio.filter(|_| peer.name.starts_with("penstock")).map_or(String::new(), |r| goal(workload.goal, r)),
                if bad > 0.0 { format!("   {bad:.0} BAD") } else { String::new() },
            );
        }
    }
}

fn goal(goal: f64, ratio: Spread) -> String {
    format!("   goal <= {goal:.2}: {}", if ratio.median <= goal { "met" } else { "missed" })
}

#[derive(Clone, Copy)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut all: Vec<f64> = values.collect();
        all.sort_by(f64::total_cmp);
        let half = all.len() / 2;
        let median = if all.len() % 2 == 1 { all[half] } else { f64::midpoint(all[half - 1], all[half]) };
        Spread { min: all[0], median, max: all[all.len() - 1] }
    }
}
