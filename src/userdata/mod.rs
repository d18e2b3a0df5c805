// SPDX-License-Identifier: Apache-2.0

//! User data, by which cloud-api-adaptor and cloud-init hand files to a pod VM: how cloud-config is written, how
//! large it may be, and, on a build host, what cloud-init makes of any user data.

mod files;
mod merge;
mod mime;
mod part;
mod peerpod;
mod read;
#[cfg(test)]
mod reading;
mod write;

pub use files::Written;
pub use read::{UserData, is_user_data, read};
pub use write::{Error, write};

/// The first line, by which cloud-init knows the format.
pub const FIRST_LINE: &str = "#cloud-config";

/// Where the resources file goes in the VM.
pub const RESOURCES_PATH: &str = "/etc/aa-offline_fs_kbc-resources.json";

/// The files that are served wherever the daemon is not told otherwise.
pub const SERVED: [&str; 3] = [
    RESOURCES_PATH,
    "/etc/aa-offline_fs_kbc-keys.json",
    "/run/peerpod/auth.json",
];

/// Where the configuration of cloud-api-adaptor's own daemon in the VM goes.
pub const DAEMON_PATH: &str = "/peerpod/daemon.json";

/// An `auth.json` of this many bytes or more was left out of the user data by cloud-api-adaptor, with no
/// more than a line in its own log.
pub const AUTH_JSON_BYTES: usize = 12_288;

/// In which form a platform measures user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Raw,
    /// Encoded in base64, as it is sent.
    Base64,
}

/// How much user data a platform takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Its name.
    pub name: &'static str,
    /// The most bytes.
    pub most: usize,
    /// Of which form.
    pub form: Form,
}

/// The platforms that document a limit. libvirt has none: its user data is a file on an ISO image.
pub const PLATFORMS: &[Platform] = &[
    // "16 KB, in raw form, before it is base64-encoded": EC2's user guide.
    Platform {
        name: "AWS EC2",
        most: 16 << 10,
        form: Form::Raw,
    },
    // "cannot exceed 16 KB before it is encoded": the ECS user guide.
    Platform {
        name: "Alibaba Cloud ECS",
        most: 16 << 10,
        form: Form::Raw,
    },
    // "restricted to 65535 bytes", encoded: Nova's user guide.
    Platform {
        name: "OpenStack",
        most: 65_535,
        form: Form::Base64,
    },
    // 65,535 bytes decoded, by its API reference; its error says 87,380 characters, which is the same.
    Platform {
        name: "Azure (custom data)",
        most: 65_535,
        form: Form::Raw,
    },
    // "64 K bytes": the documentation of VPC.
    Platform {
        name: "IBM Cloud VPC",
        most: 64 << 10,
        form: Form::Raw,
    },
    // 262144 bytes for a value of the metadata: the API's reference.
    Platform {
        name: "Google Cloud",
        most: 256 << 10,
        form: Form::Raw,
    },
];

impl Platform {
    /// The size of user data of `raw` bytes as this platform measures it.
    pub fn measure(&self, raw: usize) -> usize {
        match self.form {
            Form::Raw => raw,
            Form::Base64 => raw.div_ceil(3) * 4,
        }
    }

    /// Whether user data of `raw` bytes is small enough.
    pub fn takes(&self, raw: usize) -> bool {
        self.measure(raw) <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last size that a platform takes, and the first that it doesn't.
    #[test]
    fn each_platform_has_an_edge() {
        for platform in PLATFORMS {
            let last = match platform.form {
                Form::Raw => platform.most,
                Form::Base64 => platform.most / 4 * 3,
            };
            assert!(platform.takes(last), "{}", platform.name);
            assert!(!platform.takes(last + 1), "{}", platform.name);
        }
    }
}
