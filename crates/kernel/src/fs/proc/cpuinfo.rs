//! `/proc/cpuinfo`: the host's, of the CPUs that were granted.

use super::About;
use crate::Result;
use crate::fs::Who;

/// One CPU: its number and its lines.
pub struct Cpu {
    pub number: usize,
    pub text: String,
}

impl Cpu {
    /// The value of a line.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim_end() == name).map(|(_, value)| value.trim())
    }
}

/// The CPUs among `granted` in the host's text, with what counts CPUs set to what was granted.
pub fn select(host: &str, granted: &[usize]) -> Vec<Cpu> {
    let mut cpus: Vec<Cpu> = host
        .split("\n\n")
        .filter_map(|block| {
            let (_, number) = block.lines().next()?.split_once(':')?;
            let number = number.trim().parse().ok()?;
            granted.contains(&number).then(|| Cpu { number, text: block.trim_end_matches('\n').to_owned() })
        })
        .collect();
    let counts: Vec<(usize, usize)> = cpus
        .iter()
        .map(|cpu| {
            let package = cpu.field("physical id");
            let same = cpus.iter().filter(|other| other.field("physical id") == package);
            let mut cores: Vec<_> = same.clone().map(|other| other.field("core id").unwrap_or_default()).collect();
            cores.sort_unstable();
            cores.dedup();
            (same.count(), cores.len())
        })
        .collect();
    for (cpu, (siblings, cores)) in cpus.iter_mut().zip(counts) {
        let lines = cpu.text.lines().map(|line| match line.split_once(':') {
            Some((key, _)) if key.trim_end() == "siblings" => format!("{key}: {siblings}"),
            Some((key, _)) if key.trim_end() == "cpu cores" => format!("{key}: {cores}"),
            _ => line.to_owned(),
        });
        cpu.text = lines.collect::<Vec<_>>().join("\n");
    }
    cpus
}

/// The granted CPUs.
pub fn cpus(about: &About) -> Vec<Cpu> {
    select(about.world.proc.host_cpuinfo(), &about.world.config.cpus)
}

/// The text.
pub fn show(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    Ok(cpus(about).iter().map(|cpu| format!("{}\n\n", cpu.text)).collect::<String>().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "processor\t: 0\nphysical id\t: 0\nsiblings\t: 4\ncore id\t\t: 0\ncpu cores\t: 2\npower:\n\n\
                        processor\t: 1\nphysical id\t: 0\nsiblings\t: 4\ncore id\t\t: 0\ncpu cores\t: 2\npower:\n\n\
                        processor\t: 2\nphysical id\t: 0\nsiblings\t: 4\ncore id\t\t: 1\ncpu cores\t: 2\npower:\n\n";

    #[test]
    fn only_what_was_granted_counts() {
        let cpus = select(HOST, &[0, 2]);
        assert_eq!(cpus.iter().map(|cpu| cpu.number).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(cpus[1].field("siblings"), Some("2"));
        assert_eq!(cpus[1].field("cpu cores"), Some("2"));
        assert!(cpus[0].text.ends_with("power:"));
        assert_eq!(select(HOST, &[1])[0].field("cpu cores"), Some("1"));
    }
}
