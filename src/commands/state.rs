//! The state that a command works on: that of a running service, or that in the configured directory.

use clap::Args;

use crate::commands::client::{Client, TokenArgs};
use crate::commands::settings::Settings;
use crate::error::Result;

/// Where the state is.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// Ask the running service there, instead of opening the storage
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The token that it wants.
    #[command(flatten)]
    token: TokenArgs,
    /// The settings of the service.
    #[command(flatten)]
    pub settings: Settings,
}

impl StateArgs {
    /// A client of the running service, if one is named.
    ///
    /// # Errors
    /// As [`TokenArgs::client`].
    pub fn service(&self) -> Result<Option<Client>> {
        self.url.as_deref().map(|url| self.token.client(url)).transpose()
    }
}
