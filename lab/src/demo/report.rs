//! The closing table.

use aimq_lab::stats::percentile;

/// One of the two workers that are compared.
pub(crate) struct Side {
    pub(crate) title: &'static str,
    /// ms from the producer's COMMIT until the job was read, sorted.
    pub(crate) latencies: Vec<f64>,
    pub(crate) notifications: u64,
    pub(crate) empty_reads: u64,
}

pub(crate) fn print(sides: &[Side]) {
    let row = |name: &str, cell: &dyn Fn(&Side) -> String| {
        print!("  {name:34}");
        for side in sides {
            print!("{:>22}", cell(side));
        }
        println!();
    };
    println!();
    row("", &|side| side.title.to_owned());
    row("jobs", &|side| side.latencies.len().to_string());
    for (name, part) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)] {
        let name = format!("{name:4} from COMMIT to read, ms");
        row(&name, &|side| format!("{:.1}", percentile(&side.latencies, part)));
    }
    row("notifications", &|side| side.notifications.to_string());
    row("empty reads", &|side| side.empty_reads.to_string());
    let slowest = sides.iter().flat_map(|side| &side.latencies).fold(0.0_f64, |a, b| a.max(*b));
    println!("\n  Each dot a job, from COMMIT to read (0 to {slowest:.0} ms)\n");
    for side in sides {
        println!("  {:>20} |{}|", side.title, strip(&side.latencies, slowest));
    }
    println!();
}

/// The samples on a line of characters, denser where there are more.
fn strip(samples: &[f64], to: f64) -> String {
    const WIDTH: usize = 60;
    let mut columns = [0_usize; WIDTH];
    for sample in samples {
        let at = (sample / to * (WIDTH - 1) as f64) as usize;
        columns[at.min(WIDTH - 1)] += 1;
    }
    columns
        .iter()
        .map(|count| match count {
            0 => ' ',
            1 => '.',
            2..=4 => ':',
            5..=15 => 'o',
            _ => '@',
        })
        .collect()
}
