//! Queueing disciplines and filters by rtnetlink(7), synchronously, in the calling thread's network namespace.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::Side;

/// `ETH_P_ALL` as filters carry it.
const EVERY_PROTOCOL: u16 = 0x0003_u16.to_be();
/// Of the discipline.
const CLSACT: &str = "clsact";

/// A filter's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) ifindex: u32,
    pub(super) side: Side,
    pub(super) priority: u16,
    pub(super) handle: u32,
}

/// A filter that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) place: Place,
    /// What it calls itself; of BPF filters only.
    pub(super) name: Option<String>,
    /// The kernel's id of its program; of BPF filters only.
    pub(super) program: Option<u32>,
}

/// A netlink socket.
pub(super) struct Tc(Socket);

impl Tc {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Gives a device the discipline; whether it had none.
    pub(super) fn add_discipline(&self, ifindex: u32) -> io::Result<bool> {
        let message = discipline(ifindex)?;
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        match self.ask(flags, Message::NewQueueDiscipline(message)) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the discipline from a device, with what is in it. None is success.
    pub(super) fn remove_discipline(&self, ifindex: u32) -> io::Result<()> {
        absent_is_fine(self.ask(0, Message::DelQueueDiscipline(discipline(ifindex)?)))
    }

    /// Makes a filter run a program, or the one that is there run this instead of its own.
    pub(super) fn set(&self, place: Place, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let mut message = filter(place)?;
        message.attributes = vec![
            TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgFd(
                    program.as_raw_fd().unsigned_abs(),
                )),
                TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ];
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(flags, Message::NewTrafficFilter(message))
    }

    /// Removes a filter. None is success.
    pub(super) fn remove(&self, place: Place) -> io::Result<()> {
        let mut message = filter(place)?;
        message.attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned())];
        absent_is_fine(self.ask(0, Message::DelTrafficFilter(message)))
    }

    /// Who has a place's priority: one kind of filter at most, as the kernel has it.
    pub(super) fn find(&self, place: Place) -> io::Result<Vec<Found>> {
        let mut all = self.list_side(place.ifindex, place.side)?;
        all.retain(|found| found.place.priority == place.priority);
        Ok(all)
    }

    /// All filters of a device's two sides. A device that is gone has none.
    pub(super) fn list(&self, ifindex: u32) -> io::Result<Vec<Found>> {
        let mut all = self.list_side(ifindex, Side::Ingress)?;
        all.extend(self.list_side(ifindex, Side::Egress)?);
        Ok(all)
    }

    fn list_side(&self, ifindex: u32, side: Side) -> io::Result<Vec<Found>> {
        let mut message = TcMessage::with_index(index(ifindex)?);
        message.header.parent = parent(side);
        self.send(NLM_F_DUMP, Message::GetTrafficFilter(message))?;
        let mut all = Vec::new();
        let mut end = Ok(());
        self.receive(|payload| match payload {
            Some(NetlinkPayload::Done(_)) => true,
            Some(NetlinkPayload::Error(error)) => {
                end = absent_is_fine(answer(error.code));
                true
            }
            Some(NetlinkPayload::InnerMessage(Message::NewTrafficFilter(message))) => {
                all.extend(found(ifindex, side, &message));
                false
            }
            // The library can't read it, so it is none of ours.
            None => {
                all.push(Found {
                    place: Place {
                        ifindex,
                        side,
                        priority: 0,
                        handle: 0,
                    },
                    name: None,
                    program: None,
                });
                false
            }
            Some(_) => false,
        })?;
        end.map(|()| all)
    }

    /// Sends a request and waits for its acknowledgement.
    fn ask(&self, flags: u16, message: Message) -> io::Result<()> {
        self.send(flags | NLM_F_ACK, message)?;
        let mut said = Ok(());
        self.receive(|payload| match payload {
            Some(NetlinkPayload::Error(error)) => {
                said = answer(error.code);
                true
            }
            _ => false,
        })?;
        said
    }

    fn send(&self, flags: u16, message: Message) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0).map(drop)
    }

    /// Hands out messages, `None` for one that can't be read, until the last one, as `take` tells.
    fn receive(
        &self,
        mut take: impl FnMut(Option<NetlinkPayload<Message>>) -> bool,
    ) -> io::Result<()> {
        loop {
            let (bytes, _) = self.0.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while let Some(one) = first(rest) {
                rest = rest
                    .get(one.len().next_multiple_of(4)..)
                    .unwrap_or_default();
                let message = NetlinkMessage::<Message>::deserialize(one).ok();
                if take(message.map(|message| message.payload)) {
                    return Ok(());
                }
            }
        }
    }
}

/// The first message of a datagram.
fn first(bytes: &[u8]) -> Option<&[u8]> {
    const HEADER: usize = 16;
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let length = usize::try_from(length).ok().filter(|len| *len >= HEADER)?;
    bytes.get(..length)
}

fn index(ifindex: u32) -> io::Result<i32> {
    i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn parent(side: Side) -> TcHandle {
    let minor = match side {
        Side::Ingress => TcHandle::MIN_INGRESS,
        Side::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle {
        major: TcHandle::CLSACT.major,
        minor,
    }
}

fn discipline(ifindex: u32) -> io::Result<TcMessage> {
    let mut message = TcMessage::with_index(index(ifindex)?);
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle {
        major: TcHandle::CLSACT.major,
        minor: 0,
    };
    message.attributes = vec![TcAttribute::Kind(CLSACT.to_owned())];
    Ok(message)
}

fn filter(place: Place) -> io::Result<TcMessage> {
    let mut message = TcMessage::with_index(index(place.ifindex)?);
    message.header.parent = parent(place.side);
    message.header.handle = TcHandle::from(place.handle);
    message.header.info = u32::from(place.priority) << 16 | u32::from(EVERY_PROTOCOL);
    Ok(message)
}

/// One filter of a listing, which also has lines for the priorities themselves (handle 0).
fn found(ifindex: u32, side: Side, message: &TcMessage) -> Option<Found> {
    let handle = u32::from(message.header.handle);
    if handle == 0 {
        return None;
    }
    let mut found = Found {
        place: Place {
            ifindex,
            side,
            priority: u16::try_from(message.header.info >> 16).unwrap_or_default(),
            handle,
        },
        name: None,
        program: None,
    };
    for attribute in &message.attributes {
        let TcAttribute::Options(options) = attribute else {
            continue;
        };
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => found.name = Some(name.clone()),
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => found.program = Some(*id),
                _ => {}
            }
        }
    }
    Some(found)
}

fn answer(code: Option<std::num::NonZeroI32>) -> io::Result<()> {
    match code {
        None => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.get().saturating_neg())),
    }
}

/// Neither the filter nor its discipline nor its device need be there.
fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.raw_os_error(),
                // EINVAL: the device has no such discipline.
                Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_taken_apart_up_to_what_is_cut_off() {
        let mut bytes = vec![0_u8; 16];
        bytes[0] = 16;
        assert_eq!(first(&bytes).map(<[u8]>::len), Some(16));
        bytes[0] = 17;
        assert_eq!(first(&bytes), None);
        bytes[0] = 15;
        assert_eq!(first(&bytes), None);
        assert_eq!(first(&[]), None);
    }

    #[test]
    fn places_are_told_apart() {
        let place = |side, priority| Place {
            ifindex: 7,
            side,
            priority,
            handle: 1,
        };
        let ingress = filter(place(Side::Ingress, 0xc8a0)).unwrap();
        assert_eq!(u32::from(ingress.header.parent), 0xffff_fff2);
        assert_eq!(ingress.header.info, 0xc8a0_0300);
        let egress = filter(place(Side::Egress, 1)).unwrap();
        assert_eq!(u32::from(egress.header.parent), 0xffff_fff3);
        assert_eq!(
            found(7, Side::Egress, &egress).unwrap().place,
            place(Side::Egress, 1)
        );
    }
}
