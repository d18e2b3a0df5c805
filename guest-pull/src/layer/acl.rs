// SPDX-License-Identifier: Apache-2.0

//! POSIX ACLs as extended attributes have them: a version, and entries of a tag, permissions and an owner.
//!
//! The kernel does not check what a read-only file system has, so it is checked here, as setting it would be.

use crate::layer::path::shown;

/// The names of the attributes: who may do what, and for directories, what is made in them gets.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: [u8; 4] = 2_u32.to_le_bytes();

/// The length of an entry.
const ENTRY_BYTES: usize = 8;

/// The tags of entries.
const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;

#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// The attribute's value after the file got this mode, as after chmod(2): the mode counts. None if the mode says all of it.
///
/// # Errors
///
/// If it is no ACL.
pub fn with_mode(value: &[u8], mode: u16) -> Result<Option<Box<[u8]>>, String> {
    let mut entries = parse(value)?;
    let has_mask = entries.iter().any(|entry| entry.tag == MASK);
    if !has_mask {
        return Ok(None);
    }
    for entry in &mut entries {
        entry.permissions = match entry.tag {
            OWNER => mode >> 6 & 7,
            MASK => mode >> 3 & 7,
            OTHERS => mode & 7,
            _ => continue,
        };
    }
    Ok(Some(encode(&entries)))
}

/// The value, if it is one.
///
/// # Errors
///
/// If it is no ACL.
pub fn checked(value: &[u8]) -> Result<Option<Box<[u8]>>, String> {
    let entries = parse(value)?;
    Ok((!entries.is_empty()).then(|| encode(&entries)))
}

fn parse(value: &[u8]) -> Result<Vec<Entry>, String> {
    let broken = || format!("its ACL is broken: {}", shown(value));
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let (version, rest) = value.split_first_chunk().ok_or_else(broken)?;
    // The kernel sets none of another version, and containerd goes on.
    if *version != VERSION {
        return Ok(Vec::new());
    }
    let records = rest.chunks(ENTRY_BYTES);
    let entries: Option<Vec<_>> = records.map(entry).collect();
    let entries = entries.ok_or_else(broken)?;
    match is_valid(&entries) {
        true => Ok(entries),
        false => Err(broken()),
    }
}

fn entry(record: &[u8]) -> Option<Entry> {
    let (tag, rest) = record.split_first_chunk()?;
    let (permissions, rest) = rest.split_first_chunk()?;
    Some(Entry {
        tag: u16::from_le_bytes(*tag),
        permissions: u16::from_le_bytes(*permissions),
        id: u32::from_le_bytes(rest.try_into().ok()?),
    })
}

fn encode(entries: &[Entry]) -> Box<[u8]> {
    let mut value = VERSION.to_vec();
    for entry in entries {
        value.extend(entry.tag.to_le_bytes());
        value.extend(entry.permissions.to_le_bytes());
        value.extend(entry.id.to_le_bytes());
    }
    value.into()
}

/// Whether the entries are in order: the owner, users, the owning group, groups, the mask, which users or groups need, and
/// the others. None at all are fine too.
fn is_valid(entries: &[Entry]) -> bool {
    let is_named = |entry: &Entry| matches!(entry.tag, USER | GROUP);
    let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
    let tags = [OWNER, USER, OWNING_GROUP, GROUP, MASK, OTHERS];
    let fits = |entry: &Entry| {
        let exists = entry.id != u32::MAX || !is_named(entry);
        tags.contains(&entry.tag) && entry.permissions <= 7 && exists
    };
    entries.is_empty()
        || entries.iter().all(fits)
            && entries.is_sorted_by_key(|entry| entry.tag)
            && [OWNER, OWNING_GROUP, OTHERS].map(count) == [1; 3]
            && count(MASK) <= 1
            && (count(MASK) == 1 || !entries.iter().any(is_named))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NONE: u32 = u32::MAX;

    fn acl(entries: &[(u16, u16, u32)]) -> Box<[u8]> {
        let entries = entries.iter().map(|&(tag, permissions, id)| Entry {
            tag,
            permissions,
            id,
        });
        encode(&entries.collect::<Vec<_>>())
    }

    /// The mode counts for the owner, the others, and through the mask for all named ones.
    #[test]
    fn the_mode_counts() {
        let named = |owner, mask, others| {
            acl(&[
                (OWNER, owner, NONE),
                (USER, 7, 1000),
                (OWNING_GROUP, 7, NONE),
                (MASK, mask, NONE),
                (OTHERS, others, NONE),
            ])
        };
        let changed = with_mode(&named(7, 7, 7), 0o4640).unwrap();
        assert_eq!(changed, Some(named(6, 4, 0)));
        let plain = acl(&[(OWNER, 7, NONE), (OWNING_GROUP, 7, NONE), (OTHERS, 7, NONE)]);
        assert_eq!(with_mode(&plain, 0o640), Ok(None));
        assert_eq!(with_mode(&acl(&[]), 0o640), Ok(None));
        assert_eq!(checked(&plain), Ok(Some(plain.clone())));
        assert_eq!(checked(&acl(&[])), Ok(None));
        assert_eq!(checked(b"\x01\0\0\0x"), Ok(None));
    }

    /// What the kernel would not set is refused.
    #[test]
    fn broken_acls_are_refused() {
        let (owner, group, others) = ((OWNER, 7, NONE), (OWNING_GROUP, 7, NONE), (OTHERS, 7, NONE));
        for value in [
            acl(&[owner, group]),
            acl(&[group, owner, others]),
            acl(&[owner, owner, group, others]),
            acl(&[owner, (USER, 7, 1), group, others]),
            acl(&[owner, (USER, 7, NONE), group, (MASK, 7, NONE), others]),
            acl(&[owner, group, (MASK, 7, NONE), (MASK, 7, NONE), others]),
            acl(&[(OWNER, 8, NONE), group, others]),
            acl(&[owner, group, others, (0x40, 7, NONE)]),
            acl(&[owner, group, others])[..27].into(),
            b"\x02\0"[..].into(),
        ] {
            assert!(checked(&value).is_err(), "{}", value.escape_ascii());
        }
    }
}
