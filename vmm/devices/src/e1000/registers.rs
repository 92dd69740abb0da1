//! Offsets and bits of the registers (software developer's manual, 317453, table 13-2).

pub(super) const CTRL: u32 = 0x0000;
pub(super) const STATUS: u32 = 0x0008;
pub(super) const EECD: u32 = 0x0010;
pub(super) const EERD: u32 = 0x0014;
pub(super) const MDIC: u32 = 0x0020;
pub(super) const ICR: u32 = 0x00c0;
pub(super) const ICS: u32 = 0x00c8;
pub(super) const IMS: u32 = 0x00d0;
pub(super) const IMC: u32 = 0x00d8;
pub(super) const RCTL: u32 = 0x0100;
pub(super) const TCTL: u32 = 0x0400;
pub(super) const RDBAL: u32 = 0x2800;
pub(super) const RDT: u32 = 0x2818;
pub(super) const TDBAL: u32 = 0x3800;
pub(super) const TDT: u32 = 0x3818;
/// Of a ring: base, its upper half, length, head and tail, from the base on.
pub(super) const RING_BASE_LOW: u32 = 0x00;
pub(super) const RING_BASE_HIGH: u32 = 0x04;
pub(super) const RING_LENGTH: u32 = 0x08;
pub(super) const RING_HEAD: u32 = 0x10;
pub(super) const RING_TAIL: u32 = 0x18;
/// Multicast table array.
pub(super) const MTA: u32 = 0x5200;
/// Receive addresses: 16 pairs of low and high.
pub(super) const RAL0: u32 = 0x5400;
pub(super) const RAH0: u32 = 0x5404;
pub(super) const RECEIVE_ADDRESSES: u32 = 16;

pub(super) mod ctrl {
    pub(in super::super) const FD: u32 = 1 << 0;
    pub(in super::super) const SLU: u32 = 1 << 6;
    pub(in super::super) const SPEED_1000: u32 = 2 << 8;
    pub(in super::super) const RST: u32 = 1 << 26;
    pub(in super::super) const PHY_RST: u32 = 1 << 31;
}

pub(super) mod status {
    pub(in super::super) const FD: u32 = 1 << 0;
    pub(in super::super) const LU: u32 = 1 << 1;
    pub(in super::super) const SPEED_1000: u32 = 2 << 6;
}

/// Causes of interrupts.
pub(super) mod cause {
    pub(in super::super) const TXDW: u32 = 1 << 0;
    pub(in super::super) const TXQE: u32 = 1 << 1;
    pub(in super::super) const LSC: u32 = 1 << 2;
    pub(in super::super) const RXT0: u32 = 1 << 7;
    pub(in super::super) const MDAC: u32 = 1 << 9;
    /// All that exist.
    pub(in super::super) const ALL: u32 = 0x0001_ffff;
}

pub(super) mod rctl {
    pub(in super::super) const EN: u32 = 1 << 1;
    pub(in super::super) const UPE: u32 = 1 << 3;
    pub(in super::super) const MPE: u32 = 1 << 4;
    pub(in super::super) const LPE: u32 = 1 << 5;
    pub(in super::super) const MO_SHIFT: u32 = 12;
    pub(in super::super) const BAM: u32 = 1 << 15;
    pub(in super::super) const BSIZE_SHIFT: u32 = 16;
    pub(in super::super) const BSEX: u32 = 1 << 25;
    pub(in super::super) const SECRC: u32 = 1 << 26;
}

pub(super) mod tctl {
    pub(in super::super) const EN: u32 = 1 << 1;
}

/// Registers that only keep what is written to them: configuration that this model has no use for.
const PLAIN: &[u32] = &[
    0x0018, // CTRL_EXT
    0x0028, // FCAL
    0x002c, // FCAH
    0x0030, // FCT
    0x0038, // VET
    0x00c4, // ITR
    0x0170, // FCTTV
    0x0178, // TXCW
    0x0410, // TIPG
    0x0458, // AIT
    0x0e00, // LEDCTL
    0x1000, // PBA
    0x2160, // FCRTL
    0x2168, // FCRTH
    0x2820, // RDTR
    0x2828, // RXDCTL
    0x282c, // RADV
    0x2c00, // RSRPD
    0x3820, // TIDV
    0x3828, // TXDCTL
    0x382c, // TADV
    0x3830, // TSPMT
    0x5000, // RXCSUM
    0x5800, // WUC
    0x5808, // WUFC
    0x5820, // MANC
];

/// Whether a register only keeps what is written to it.
pub(super) fn is_plain(register: u32) -> bool {
    // Multicast table, receive addresses, VLAN filter table.
    let table = matches!(register, 0x5200..0x5400 | 0x5400..0x5480 | 0x5600..0x5800);
    table || PLAIN.contains(&register)
}
