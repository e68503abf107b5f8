//! A look at the state directory beside whoever writes it: nothing is changed, no lock is taken.

use std::fs;
use std::path::Path;

use super::{
    APPLICATION_ID, DATABASE_FILE, IdentityWindow, ModelVersion, SCHEMA_VERSION, Store,
    StoreOptions, dead_letters_of, decisions_of, early_outcomes_of, from_sql, is_corruption,
    log_of, open_read_only, query, reaction, versions,
};
use crate::error::{Error, Result};

/// How much room the database takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The database, bytes.
    pub database: u64,
    /// Its write-ahead log, bytes.
    pub log: u64,
}

impl Store {
    /// Opens the state directory to read from it, also beside a running service. Nothing can be
    /// written through it, and it knows no identities.
    ///
    /// # Errors
    /// [`Error::NotFound`] without a database, [`Error::Corrupt`] when it is damaged, foreign or of
    /// another schema.
    pub fn open_read_only(directory: &Path, options: StoreOptions) -> Result<Self> {
        let database = directory.join(DATABASE_FILE);
        let shown = database.display();
        if fs::metadata(&database).map_or(true, |meta| meta.len() == 0) {
            return Err(Error::NotFound(format!("there is no database {shown}")));
        }
        let connection = open_read_only(&database)?;
        let pragma = |name: &str| -> Result<i32> {
            connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).map_err(|error| {
                if is_corruption(&error) {
                    return Error::Corrupt(format!("the database {shown} is damaged: {error}"));
                }
                reaction(&error)
            })
        };
        let (application, schema) = (pragma("application_id")?, pragma("user_version")?);
        if application != APPLICATION_ID {
            return Err(Error::Corrupt(format!(
                "{shown} is an SQLite database of another program (application_id {application})"
            )));
        }
        if schema != SCHEMA_VERSION {
            let why = if schema > SCHEMA_VERSION {
                "a newer program wrote it"
            } else {
                "the next start of the service brings it up to date"
            };
            return Err(Error::Corrupt(format!(
                "the database {shown} has schema {schema}, this program reads {SCHEMA_VERSION}: \
                 {why}"
            )));
        }
        // The first look into a table tells damage.
        query(&connection, "SELECT sum(length(payload)) FROM dead_letters", [], |_| Ok(()))
            .map_err(|error| match error {
                Error::Fatal(why) => {
                    Error::Corrupt(format!("the database {shown} is damaged: {why}"))
                }
                other => other,
            })?;
        Ok(Self {
            identities: IdentityWindow::load(&connection, 0)?,
            decisions: decisions_of(&options),
            early_outcomes: early_outcomes_of(&options),
            dead_letters: dead_letters_of(&options),
            connection,
            directory: directory.to_owned(),
            options,
            patience: super::Patience::default(),
            _lock: None,
        })
    }

    /// The same, with every answer from now on as of this moment, whatever is written meanwhile.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn as_of_now(self) -> Result<Self> {
        // It ends with the connection, and has changed nothing.
        self.connection.execute_batch("BEGIN").map_err(|error| reaction(&error))?;
        self.counters()?;
        Ok(self)
    }

    /// Every version of a model type that is known, archived ones too, oldest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn all_versions(&self, model_type: &str) -> Result<Vec<ModelVersion>> {
        let mut versions = versions::list(&self.connection, model_type, None, u32::MAX)?;
        versions.reverse();
        Ok(versions)
    }

    /// What SQLite's `quick_check` finds wrong with the database; `None` when it is sound.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it can't be read now.
    pub fn quick_check(&self) -> Result<Option<String>> {
        let checked = self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        match checked {
            Ok(finding) => Ok(Some(finding).filter(|finding: &String| finding != "ok")),
            Err(error) if is_corruption(&error) => Ok(Some(error.to_string())),
            Err(error) => Err(reaction(&error)),
        }
    }

    /// How many dead letters there are by reason code, most first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database can't be read now.
    pub fn dead_letter_codes(&self) -> Result<Vec<(String, u64)>> {
        query(
            &self.connection,
            "SELECT code, count(*) FROM dead_letters GROUP BY code ORDER BY count(*) DESC, code",
            [],
            |row| Ok((row.get(0)?, from_sql(row.get(1)?))),
        )
    }

    /// How much room the database takes.
    pub fn sizes(&self) -> Sizes {
        let database = self.directory.join(DATABASE_FILE);
        let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        Sizes { database: size(&database), log: size(&log_of(&database)) }
    }
}
