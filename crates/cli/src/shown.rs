//! `--bind` and `--write`: one list, since of two at the same place the later one counts.

use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgMatches, Args, Command, FromArgMatches, ValueHint};
use coracle::config::Bind;

use crate::parse;

/// What they show, without what another option covers altogether.
#[derive(Debug, Default)]
pub struct Shown {
    pub bind: Vec<Bind>,
    pub write: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct Options {
    /// Show a host file or directory at a place inside; `:ro` forbids writes to it.
    ///
    /// May be given many times. This is also the way to show what is hidden, as in `--bind $HOME:$HOME:ro`, and to hide
    /// something, as in `--bind /dev/null:$PWD/.env`, which is read as empty.
    ///
    /// With several --bind and --write, outer places come first, so that inner ones are seen in them, whatever their order
    /// here; at the same place the later option counts. A place that is missing is made, in a directory bound for writing
    /// on the host.
    #[arg(long, value_name = "SRC:DST[:ro]", value_parser = OsStringValueParser::new().try_map(parse::bind),
        value_hint = ValueHint::AnyPath, help_heading = "Files")]
    bind: Vec<Bind>,

    /// Let the program change this host directory for good, at its own path.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Files")]
    write: Vec<PathBuf>,
}

impl Args for Shown {
    fn augment_args(command: Command) -> Command {
        Options::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args_for_update(command)
    }
}

impl FromArgMatches for Shown {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let Options { mut bind, mut write } = Options::from_arg_matches(matches)?;
        let indices = |name| matches.indices_of(name).into_iter().flatten().collect::<Vec<_>>();
        let (binds, writes) = (indices("bind"), indices("write"));
        let dst: Vec<PathBuf> = bind.iter().map(|bind| bind.dst.clone()).collect();
        let dirs: Vec<PathBuf> = write.iter().map(|dir| std::path::absolute(dir).unwrap_or_default()).collect();
        let places = || binds.iter().zip(&dst).chain(writes.iter().zip(&dirs));
        let covered =
            |(index, place): (&usize, &PathBuf)| places().any(|(other, over)| other > index && same(over, place));
        let mut kept = binds.iter().zip(&dst).map(|at| !covered(at));
        bind.retain(|_| kept.next().unwrap_or(true));
        let mut kept = writes.iter().zip(&dirs).map(|at| !covered(at));
        write.retain(|_| kept.next().unwrap_or(true));
        Ok(Shown { bind, write })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Shown::from_arg_matches(matches)?;
        Ok(())
    }
}

/// As written, but for `.` and slashes.
fn same(a: &Path, b: &Path) -> bool {
    a.components().eq(b.components())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        shown: Shown,
    }

    fn parse(line: &str) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let shown = Alone::try_parse_from(std::iter::once("run").chain(line.split(' '))).unwrap().shown;
        (shown.bind.into_iter().map(|bind| bind.src).collect(), shown.write)
    }

    #[test]
    fn at_one_place_the_later_counts() {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(parse("--bind /a:/w --write /w"), (paths(&[]), paths(&["/w"])));
        assert_eq!(parse("--write /w --bind /a:/w/:ro"), (paths(&["/a"]), paths(&[])));
        assert_eq!(parse("--bind /a:/w --bind /b:/./w"), (paths(&["/b"]), paths(&[])));
        assert_eq!(parse("--bind /a:/w/x --write /w"), (paths(&["/a"]), paths(&["/w"])));
        assert_eq!(parse("--write /w --bind /a:/b --write /w"), (paths(&["/a"]), paths(&["/w"])));
    }
}
