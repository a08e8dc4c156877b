//! Where a volume lies: in memory, or on something that keeps what is written to it.

use std::os::fd::BorrowedFd;

use rustix::fs::{StatFs, fstatfs};
use rustix::io;

use crate::render::RenderedSet;

/// Filesystems that live in memory (linux/magic.h).
const IN_MEMORY: [u32; 2] = [TMPFS_MAGIC, RAMFS_MAGIC];
const TMPFS_MAGIC: u32 = 0x0102_1994;
const RAMFS_MAGIC: u32 = 0x8584_58f6;

/// Names of what is commonly found instead (linux/magic.h; ZFS and VMware's by their own sources).
const NAMES: [(u32, &str); 21] = [
    (0x0000_ef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x794c_7630, "overlayfs"),
    (0xca45_1a4e, "bcachefs"),
    (0xf2f5_2010, "f2fs"),
    (0x2fc1_2fc1, "zfs"),
    (0x7371_7368, "squashfs"),
    (0xe0f5_e1e2, "erofs"),
    (0x0000_4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x0000_6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb"),
    (0x00c3_6400, "ceph"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x0000_9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x6367_7270, "cgroup2"),
    (0x9584_58f6, "hugetlbfs"),
];

/// A filesystem, as far as a volume cares.
pub(super) enum Filesystem {
    /// Gone with the power.
    Memory,
    /// Anything else, by name.
    Other(String),
}

/// The filesystem that `dir` lies on, by what the kernel says of it and not by its path.
pub(super) fn of(dir: BorrowedFd<'_>) -> io::Result<Filesystem> {
    let magic = magic(&fstatfs(dir)?);
    if IN_MEMORY.contains(&magic) {
        return Ok(Filesystem::Memory);
    }
    let name = NAMES.iter().find(|(known, _)| *known == magic).map(|(_, name)| (*name).to_owned());
    Ok(Filesystem::Other(name.unwrap_or_else(|| format!("a filesystem of type {magic:#x}"))))
}

/// What `set` needs on the filesystem of `dir`, and what that has left, in bytes.
pub(super) fn space(dir: BorrowedFd<'_>, set: &RenderedSet) -> (u64, u64) {
    let (block, free) = fstatfs(dir).map_or((1, 0), |stat| (u64::try_from(stat.f_bsize).unwrap_or(1), stat.f_bavail));
    let block = block.max(1);
    let files = set.iter().map(|(_, file)| file.content.len() as u64);
    // One block more for the manifest.
    let blocks = files.map(|len| len.div_ceil(block)).sum::<u64>() + 1;
    (blocks * block, free.saturating_mul(block))
}

/// The magic is 32 bits wide; the field that carries it is as wide as a long, and signed.
fn magic(stat: &StatFs) -> u32 {
    stat.f_type as u32
}
