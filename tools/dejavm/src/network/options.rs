//! The command line's part about the network, and what a machine has because of it.

use super::{Forward, Mac, MacAddress, Net, Network, Nic, Plug};
use crate::exit::{Exit, Failure};
use clap::Args;
use dejavm_machine::{Card, Hardware};

/// The network of a live machine.
#[derive(Clone, Debug, Args)]
pub struct NetworkOptions {
    /// The network: passt (the host's, by the program passt, without privileges), tap:NAME (a TAP interface), unix:PATH
    /// (whoever speaks as passt does, at a unix socket), none [default: passt with --forward, else none]
    #[arg(long, value_name = "NETWORK")]
    pub net: Option<Net>,
    /// Let a TCP port of this host (127.0.0.1) lead to one of the guest's, as in 2222:22; udp:HOST:GUEST for UDP. May be
    /// given several times
    #[arg(long, value_name = "HOST:GUEST")]
    pub forward: Vec<Forward>,
    /// The network card [default: virtio]
    #[arg(long, value_name = "CARD")]
    pub nic: Option<Nic>,
    /// The network card's address [default: one of our own]
    #[arg(long, value_name = "XX:XX:XX:XX:XX:XX")]
    pub mac: Option<MacAddress>,
}

/// The address of the guest's card; on a network of others' one that is not every guest's.
fn mac(net: &Net) -> Mac {
    match net {
        Net::None | Net::Passt | Net::Unix(_) => [0x52, 0x54, 0x00, 0x64, 0x6a, 0x76],
        Net::Tap(name) => {
            let hash = blake3::hash(name.as_bytes());
            let [a, b, c, ..] = *hash.as_bytes();
            [0x52, 0x54, 0x00, a, b, c]
        }
    }
}

/// Which card is a network's, and its address.
fn card(hardware: &Hardware) -> Option<(u8, Mac)> {
    let cards = (0u8..).zip(&hardware.cards);
    let mut networks = cards.filter_map(|(number, card)| match card {
        Card::VirtioNet { mac } | Card::E1000 { mac } => Some((number, *mac)),
        Card::VirtioBlock { .. }
        | Card::Ide { .. }
        | Card::VirtioRng { .. }
        | Card::VirtioConsole => None,
    });
    networks.next()
}

impl NetworkOptions {
    fn net(&self) -> Net {
        match &self.net {
            Some(net) => net.clone(),
            None if self.forward.is_empty() => Net::None,
            None => Net::Passt,
        }
    }

    /// Whether the command line says which.
    pub fn is_told(&self) -> bool {
        self.net.is_some() || !self.forward.is_empty()
    }

    /// Whether there is to be one.
    pub fn is_any(&self) -> bool {
        self.net() != Net::None
    }

    /// Gives a new machine the card.
    pub fn attach(&self, hardware: &mut Hardware) {
        let net = self.net();
        if net != Net::None {
            let mac = self.mac.map_or_else(|| mac(&net), |MacAddress(mac)| mac);
            hardware.cards.push(match self.nic.unwrap_or(Nic::Virtio) {
                Nic::Virtio => Card::VirtioNet { mac },
                Nic::E1000 => Card::E1000 { mac },
            });
        }
    }

    /// Puts a machine on the network.
    pub fn open(&self, hardware: &Hardware) -> Result<Option<Plug>, Failure> {
        let net = self.net();
        if net != Net::Passt && !self.forward.is_empty() {
            let sentence = "--forward is what passt does: leave --net out, or say --net passt";
            return Err(Failure::new(Exit::Usage, sentence));
        }
        let Some((number, mac)) = card(hardware) else {
            return match net {
                Net::None => Ok(None),
                Net::Passt | Net::Tap(_) | Net::Unix(_) => {
                    let sentence = "--net: this machine was started without a network card, so leave \
                                    the option out";
                    Err(Failure::new(Exit::Usage, sentence))
                }
            };
        };
        let network = Network::open(&net, &self.forward, mac)?;
        Ok(network.map(|network| Plug::new(network, number)))
    }
}
