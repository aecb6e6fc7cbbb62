//! Names and identities: clusters, PoPs, agents, hubs, and the URI that a certificate carries for them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest permitted [`Name`], in bytes.
pub const NAME_MAX: usize = 63;

/// A cluster, PoP, agent or device name: 1 to 63 of `a-z A-Z 0-9 . _ -`, starting with a letter or digit.
///
/// The alphabet is what is safe unescaped in a URI path, a file name and a log line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a name must not be empty")]
    Empty,
    /// The text is longer than [`NAME_MAX`] bytes.
    #[error("name of {length} bytes is longer than the limit of {NAME_MAX}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A character outside the alphabet.
    #[error(
        "name {name:?} has the character {character:?} at byte {at}; allowed are a-z A-Z 0-9 . _ - and the first must be a letter or digit"
    )]
    Character {
        /// The offending text.
        name: String,
        /// The character refused.
        character: char,
        /// Its byte offset.
        at: usize,
    },
}

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text, cheap to clone into a label.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_MAX {
            return Err(NameError::TooLong { length: text.len() });
        }
        let allowed = |at: usize, c: char| c.is_ascii_alphanumeric() || (at > 0 && matches!(c, '.' | '_' | '-'));
        match text.char_indices().find(|&(at, c)| !allowed(at, c)) {
            Some((at, character)) => Err(NameError::Character { name: text.to_owned(), character, at }),
            None => Ok(Self(text.into())),
        }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A hub node's number in the Raft group; 1 or more, never used twice.
pub type HubId = u64;

/// An agent: its PoP and its name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AgentId {
    /// The PoP it polls for.
    pub pop: Name,
    /// Its name, unique in the PoP.
    pub name: Name,
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pop, self.name)
    }
}

/// What a certificate's holder may act as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// An edge agent.
    Agent,
    /// A core hub node.
    Hub,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Hub => "hub",
        })
    }
}

/// Who a certificate says its holder is: the one SAN URI of ours in it.
///
/// `anemone://<cluster>/pop/<pop>/agent/<name>` or `anemone://<cluster>/hub/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// An edge agent.
    Agent {
        /// The cluster it belongs to.
        cluster: Name,
        /// PoP and name.
        agent: AgentId,
    },
    /// A hub node.
    Hub {
        /// The cluster it belongs to.
        cluster: Name,
        /// Its number.
        id: HubId,
    },
}

/// Why a URI is not an [`Identity`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not of either form.
    #[error("{uri:?} is not an identity; expected anemone://<cluster>/pop/<pop>/agent/<name> or anemone://<cluster>/hub/<id>")]
    Form {
        /// The text found.
        uri: String,
    },
    /// One of its names is not valid.
    #[error("identity {uri:?}: {source}")]
    Name {
        /// The text found.
        uri: String,
        /// What is wrong with the name.
        source: NameError,
    },
}

impl Identity {
    /// The cluster named in it.
    #[must_use]
    pub fn cluster(&self) -> &Name {
        match self {
            Self::Agent { cluster, .. } | Self::Hub { cluster, .. } => cluster,
        }
    }

    /// The role it grants.
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            Self::Agent { .. } => Role::Agent,
            Self::Hub { .. } => Role::Hub,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent { cluster, agent } => write!(f, "anemone://{cluster}/pop/{}/agent/{}", agent.pop, agent.name),
            Self::Hub { cluster, id } => write!(f, "anemone://{cluster}/hub/{id}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form { uri: uri.to_owned() };
        let name = |text: &str| text.parse::<Name>().map_err(|source| IdentityError::Name { uri: uri.to_owned(), source });
        let path = uri.strip_prefix("anemone://").ok_or_else(form)?;
        match path.split('/').collect::<Vec<_>>().as_slice() {
            [cluster, "pop", pop, "agent", agent] => {
                Ok(Self::Agent { cluster: name(cluster)?, agent: AgentId { pop: name(pop)?, name: name(agent)? } })
            }
            [cluster, "hub", id] => match id.parse::<HubId>() {
                Ok(id) if id > 0 => Ok(Self::Hub { cluster: name(cluster)?, id }),
                _ => Err(form()),
            },
            _ => Err(form()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_round_trips_through_its_uri() {
        for uri in ["anemone://demo/pop/ams1/agent/a-1", "anemone://demo/hub/3"] {
            assert_eq!(uri.parse::<Identity>().unwrap().to_string(), uri);
        }
    }

    #[test]
    fn identity_of_another_form_is_refused() {
        for uri in [
            "",
            "anemone://",
            "anemone://demo/hub/0",
            "anemone://demo/hub/x",
            "anemone://demo/pop/ams1",
            "https://demo/hub/1",
            "anemone://demo/hub/1/x",
        ] {
            assert!(matches!(uri.parse::<Identity>(), Err(IdentityError::Form { .. })), "{uri}");
        }
        let error = "anemone://de mo/hub/1".parse::<Identity>().unwrap_err();
        assert!(error.to_string().contains("character ' ' at byte 2"), "{error}");
    }

    #[test]
    fn names_are_checked() {
        assert_eq!("".parse::<Name>(), Err(NameError::Empty));
        assert_eq!("x".repeat(64).parse::<Name>(), Err(NameError::TooLong { length: 64 }));
        assert!(matches!("-a".parse::<Name>(), Err(NameError::Character { at: 0, .. })));
        assert!(matches!("a/b".parse::<Name>(), Err(NameError::Character { at: 1, character: '/', .. })));
        assert!("ams1-sw.01_b".parse::<Name>().is_ok());
    }
}
