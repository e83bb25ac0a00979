//! The manual pages of `pcpm` and of its verbs, made of the words of the command line and their help.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::cli::Cli;

/// Writes a page for the program and one for each verb into `directory`.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(directory: &Path) -> io::Result<()> {
    let mut program = Cli::command();
    program.build();
    let verbs = program.get_subcommands().filter(|verb| !verb.is_hide_set());
    for command in verbs.chain([&program]) {
        let page = Man::new(command.clone()).manual("PCPM");
        let mut file = File::create(directory.join(page.get_filename()))?;
        page.render_title(&mut file)?;
        page.render_name_section(&mut file)?;
        page.render_synopsis_section(&mut file)?;
        page.render_description_section(&mut file)?;
        page.render_options_section(&mut file)?;
        if command.has_subcommands() {
            page.render_subcommands_section(&mut file)?;
        }
        notes(command, &mut file)?;
    }
    Ok(())
}

/// What the help says behind the options, line by line as it stands there.
fn notes(command: &Command, file: &mut impl Write) -> io::Result<()> {
    let Some(text) = command.get_after_help() else {
        return Ok(());
    };
    let mut roff = Roff::default();
    roff.control("SH", ["NOTES"]).control("nf", []);
    for line in text.to_string().lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []).to_writer(file)
}
