//! The settings of the service as arguments of its commands: a flag for each row of [`OPTIONS`].

use std::collections::BTreeMap;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, FromArgMatches};

use crate::config::{Config, OPTIONS, Opt};
use crate::error::Result;

/// Settings as flags and environment give them, by environment variable.
#[derive(Debug, Default)]
pub struct Settings(BTreeMap<&'static str, (String, Origin)>);

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Flag,
    Environment,
}

impl Args for Settings {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(OPTIONS.iter().map(flag))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// The flag of a setting.
fn flag(option: &Opt) -> Arg {
    let help = match option.default {
        "" => option.help.to_owned(),
        default => format!("{} [default: {default}]", option.help),
    };
    let flag = Arg::new(option.env)
        .long(option.flag)
        .env(option.env)
        .value_name("VALUE")
        .help(help)
        .hide_env_values(true);
    match option.default {
        // What is off may be turned on by its bare flag.
        "false" => flag.num_args(0..=1).default_missing_value("true"),
        _ => flag.allow_hyphen_values(true),
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let given = OPTIONS.iter().filter_map(|option| {
            let origin = match matches.value_source(option.env) {
                Some(ValueSource::CommandLine) => Origin::Flag,
                _ => Origin::Environment,
            };
            matches.get_one::<String>(option.env).map(|value| (option.env, (value.clone(), origin)))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(
        &mut self,
        matches: &ArgMatches,
    ) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Settings {
    /// What was given for a variable.
    pub fn get(&self, env: &str) -> Option<String> {
        self.0.get(env).map(|(value, _)| value.clone())
    }

    /// The configuration that they make.
    ///
    /// # Errors
    /// As [`Config::resolve`].
    pub fn config(&self) -> Result<Config> {
        Config::resolve(|env| self.get(env))
    }

    /// Every setting as it holds, or only what is set: its name, its value with what is secret in it
    /// hidden, and where that comes from.
    pub fn shown(
        &self,
        effective: bool,
    ) -> impl Iterator<Item = (&'static str, String, String)> + '_ {
        OPTIONS.iter().filter_map(move |option| {
            // An empty one counts as not set.
            let given = self.0.get(option.env).filter(|(value, _)| !value.is_empty());
            let (value, origin) = match given {
                Some((value, Origin::Flag)) => (value.as_str(), format!("--{}", option.flag)),
                Some((value, Origin::Environment)) => (value.as_str(), "environment".to_owned()),
                None if effective => (option.default, "default".to_owned()),
                None => return None,
            };
            Some((option.env, without_secrets(option.env, value), origin))
        })
    }
}

/// The value of a setting without what is secret in it. Of an address only the host is shown: many
/// webhooks have their secret in the path.
fn without_secrets(env: &str, value: &str) -> String {
    let is_secret = ["PASSWORD", "SECRET", "TOKEN"].iter().any(|word| env.contains(word));
    if is_secret && !env.ends_with("_FILE") {
        return "(hidden)".to_owned();
    }
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, host) = match authority.rsplit_once('@') {
        Some((_, host)) => ("(hidden)@", host),
        None => ("", authority),
    };
    let path = if path.len() > 1 { "/(hidden)" } else { path };
    format!("{scheme}://{user}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_in_a_value_is_not_shown() {
        let shown = |value| without_secrets("ALERT_WEBHOOK_URL", value);
        assert_eq!(shown("https://u:p@host/x?key=1"), "https://(hidden)@host/(hidden)");
        assert_eq!(shown("https://u:p@host?key=1"), "https://(hidden)@host/(hidden)");
        assert_eq!(shown("https://host/services/s3cret"), "https://host/(hidden)");
        assert_eq!(shown("http://host:80/"), "http://host:80/");
        assert_eq!(shown("http://host:80"), "http://host:80");
        assert_eq!(without_secrets("KAFKA_SASL_PASSWORD_FILE", "/p"), "/p");
        assert_eq!(without_secrets("SOME_TOKEN", "t"), "(hidden)");
    }
}
