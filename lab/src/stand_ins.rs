//! Programs that stand in front of the real ones where root calls cargo-pgrx: PostgreSQL does not run as root.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::majors::Major;
use crate::shell::{self, quoted, target, write_program};

/// Who runs the harness' servers where we are root.
pub const RUN_AS: &str = "nobody";

/// `sudo -u nobody …` and `sudo …`, as the harness calls it. It does nothing else, because by `make env` it stands in
/// front of the PATH of a person's shell.
pub fn sudo(folder: &Path) -> Result<()> {
    let keep_reading = shell::KEEP_READING.join(" ");
    write_program(
        &folder.join("sudo"),
        &format!(
            "#!/bin/sh\n\
             # Stands in for sudo where pgrx' test harness calls it as root.\n\
             case \"$1\" in\n\
             -u)\n\
             \tif [ \"$2\" != {RUN_AS} ]; then\n\
             \t\techo \"$0 stands in for sudo, and knows {RUN_AS} only\" >&2\n\
             \t\texit 1\n\
             \tfi\n\
             \tshift 2\n\
             \texec setpriv --reuid={id} --regid={id} {keep_reading} env \"$@\" ;;\n\
             -*)\n\
             \techo \"$0 stands in for sudo, and has no $1\" >&2\n\
             \texit 1 ;;\n\
             esac\n\
             exec env \"$@\"\n",
            id = shell::NOBODY
        ),
    )
}

/// The programs of a PostgreSQL of ours: each runs the real one as somebody else. Returns the pg_config that says where
/// they are.
pub(crate) fn programs(major: Major) -> Result<PathBuf> {
    let bin = target().join("lab").join(format!("bin-{}", major.0));
    let real = major.program("postgres");
    let real = real.parent().context("a program has a folder")?;
    let keep_reading = shell::KEEP_READING.join(" ");
    let id = shell::NOBODY;
    for entry in std::fs::read_dir(real)? {
        let (name, program) = {
            let entry = entry?;
            (entry.file_name(), entry.path())
        };
        if name == "pg_config" {
            continue;
        }
        let program = quoted(&program);
        // The harness' sudo has made somebody else of us already.
        let text = format!(
            "#!/bin/sh\n\
             [ \"$(id -u)\" = 0 ] || exec {program} \"$@\"\n\
             exec setpriv --reuid={id} --regid={id} {keep_reading} {program} \"$@\"\n"
        );
        write_program(&bin.join(name), &text)?;
    }
    let pg_config = bin.join("pg_config");
    let text = format!(
        "#!/bin/sh\n\
         if [ \"$*\" = --bindir ]; then echo {}; else exec {} \"$@\"; fi\n",
        quoted(&bin),
        quoted(&major.program("pg_config"))
    );
    write_program(&pg_config, &text)?;
    Ok(pg_config)
}
