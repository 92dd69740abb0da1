//! The network card of a `.vmx` file: the first; there is one here.

use super::{Vmx, refused};
use crate::exit::Failure;
use crate::network::{MacAddress, Net, NetworkOptions, Nic};

/// The only one.
const CARD: &str = "ethernet0";

impl Vmx {
    /// Takes what is said of it, where the command line says nothing of a network.
    pub(super) fn fill_network(
        &mut self,
        options: &mut NetworkOptions,
    ) -> Result<Vec<String>, Failure> {
        let mut told = Vec::new();
        let there = self.take_flag("ethernet0.present")?;
        let plugged_in = self.take_choice("ethernet0.startConnected")?.unwrap_or(true);
        if there {
            self.fill_card(options)?;
            let net = match self.take("ethernet0.connectionType").unwrap_or_default() {
                _ if options.is_told() => None,
                _ if !plugged_in => Some((Net::None, "left out, as it is not connected")),
                text => match text.to_lowercase().as_str() {
                    "" | "bridged" => {
                        Some((Net::Passt, "behind the host's network by passt, not bridged"))
                    }
                    "nat" | "custom" => Some((Net::Passt, "behind the host's network by passt")),
                    "hostonly" | "none" | "monitor_dev" => Some((
                        Net::None,
                        "left out, as there is no network of the host only: --net has others",
                    )),
                    _ => {
                        let key = "ethernet0.connectiontype";
                        return Err(refused(key, &text, "it is none of nat, bridged, hostonly"));
                    }
                },
            };
            if let Some((net, text)) = net {
                let card = match options.nic {
                    Some(Nic::Virtio) if net != Net::None => "a virtio card ",
                    Some(Nic::E1000) if net != Net::None => "an e1000 ",
                    _ => "",
                };
                told.push(format!("{CARD} is {card}{text}"));
                options.net = Some(net);
            }
        }
        self.forget(CARD);
        Ok(told)
    }

    fn fill_card(&mut self, options: &mut NetworkOptions) -> Result<(), Failure> {
        let key = "ethernet0.virtualdev";
        let device = self.take(key).unwrap_or_default();
        let nic = match device.to_lowercase().as_str() {
            "virtio" => Nic::Virtio,
            // The product's own, for which Linux has no other driver here.
            "vmxnet" | "vmxnet2" | "vmxnet3" if self.is_linux() => Nic::Virtio,
            "" | "e1000" | "e1000e" | "vlance" | "flexible" | "vmxnet" | "vmxnet2" | "vmxnet3" => {
                Nic::E1000
            }
            _ => {
                return Err(refused(
                    key,
                    &device,
                    "it is none of e1000, e1000e, vmxnet3, virtio, vlance",
                ));
            }
        };
        options.nic.get_or_insert(nic);
        for key in ["ethernet0.address", "ethernet0.generatedaddress"] {
            let Some(address) = self.take(key).filter(|address| !address.is_empty()) else {
                continue;
            };
            let mac: MacAddress =
                address.parse().map_err(|why: &str| refused(key, &address, why))?;
            options.mac.get_or_insert(mac);
        }
        Ok(())
    }
}
