//! The configuration file: flat TOML.

use super::{ConfigError, RawConfig, Source};
use std::path::Path;
use toml::Table;

/// Lays the file over `raw`.
pub(crate) fn read(path: &Path, raw: &mut RawConfig, errors: &mut Vec<ConfigError>) {
    let name = path.display();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, &name.to_string(), raw, errors),
        Err(error) => errors.push(ConfigError(format!("can't read the configuration file {name}: {error}"))),
    }
}

/// Lays the text of a file over `raw`.
pub(crate) fn parse(text: &str, name: &str, raw: &mut RawConfig, errors: &mut Vec<ConfigError>) {
    match text.parse::<Table>() {
        Ok(table) => {
            for (key, value) in table {
                if value.is_table() {
                    errors.push(ConfigError(format!(
                        "{name} has a section [{key}]: keys stand at the top, without sections"
                    )));
                    continue;
                }
                errors.extend(raw.set(&key, value, Source::File(name.to_owned())).err());
            }
        }
        Err(error) => errors.push(ConfigError(format!("{name} is not valid TOML: {}", error.to_string().trim_end()))),
    }
}
