//! The protocol engine: what a correct agent answers to Get, GetNext and GetBulk.
//!
//! RFC 3416 sections 4.2.1 to 4.2.3 for v2c; RFC 1157 section 4.1 for v1, with Counter64 invisible as RFC 3584
//! section 4.2.2.1 requires. A response that would grow beyond the limit is `tooBig` with no bindings, or, for
//! GetBulk, cut short. `Set` is always refused.

use super::{
    ber,
    ledger::{self, Noted},
    request::{Pdu, Request, Version},
    response::{ResponseBuffer, Status, Value},
    view::{Cursor, Found, View},
};

/// Buffers reused from one request to the next.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) request: Request,
    pub(crate) response: ResponseBuffer,
    /// What the finished response says about series the ledger keeps.
    pub(crate) noted: Vec<Noted>,
    /// Bindings in the finished response.
    pub(crate) bindings: usize,
    repeaters: Vec<Repeater>,
}

/// Where one repeated name of a GetBulk has come to.
#[derive(Clone, Copy, Debug, Default)]
struct Repeater {
    next: Option<Cursor>,
    last: Option<Cursor>,
}

enum Stop {
    /// The response is full.
    Full,
    /// v1: the name at this position does not exist.
    NoSuchName(usize),
}

/// Answers the request in `scratch`, leaving the message in `scratch.response`.
pub(crate) fn answer<V: View>(view: &V, datagram: &[u8], max_size: usize, scratch: &mut Scratch) {
    let Scratch { request, response, noted, bindings, repeaters } = scratch;
    let community = request.community(datagram);
    response.begin(max_size, community.len());
    noted.clear();
    let mut writer = Writer { view, request, datagram, response, noted, bindings: 0 };
    let outcome = match request.pdu {
        Pdu::Get => writer.get(),
        Pdu::GetNext => {
            (0..request.len()).try_for_each(|position| writer.next(position, view.after(request.arcs(position)), None).map(|_| ()))
        }
        Pdu::GetBulk => writer.bulk(repeaters),
        Pdu::Set => Ok(()),
    };
    let (status, index) = match (outcome, request.pdu, request.version) {
        (Ok(()), Pdu::Set, Version::V2c) => (Status::NoAccess, 1),
        (Ok(()), Pdu::Set, Version::V1) => (Status::NoSuchName, 1),
        (Ok(()), ..) => (Status::NoError, 0),
        // A GetBulk that does not fit whole is answered with what fits.
        (Err(Stop::Full), Pdu::GetBulk, _) if writer.bindings > 0 => (Status::NoError, 0),
        (Err(Stop::Full), ..) => (Status::TooBig, 0),
        (Err(Stop::NoSuchName(position)), ..) => (Status::NoSuchName, position + 1),
    };
    *bindings = writer.bindings;
    if status != Status::NoError {
        *bindings = 0;
        noted.clear();
        response.clear();
        if status != Status::TooBig || request.version == Version::V1 {
            echo(request, datagram, response);
        }
    }
    response.finish(request, community, status, index);
}

/// Errors other than tooBig return the request's own bindings.
fn echo(request: &Request, datagram: &[u8], response: &mut ResponseBuffer) {
    for position in 0..request.len() {
        let octets = request.octets(position, datagram);
        if !response.binding(octets.len(), |out| out.extend_from_slice(octets), &Value::Empty(ber::NULL)) {
            break;
        }
    }
}

struct Writer<'a, V> {
    view: &'a V,
    request: &'a Request,
    datagram: &'a [u8],
    response: &'a mut ResponseBuffer,
    noted: &'a mut Vec<Noted>,
    bindings: usize,
}

impl<V: View> Writer<'_, V> {
    fn get(&mut self) -> Result<(), Stop> {
        for position in 0..self.request.len() {
            let found = self.view.find(self.request.arcs(position));
            let value = match found {
                Found::At(cursor) => self.view.value(cursor),
                Found::NoSuchObject => Value::Empty(ber::NO_SUCH_OBJECT),
                Found::NoSuchInstance => Value::Empty(ber::NO_SUCH_INSTANCE),
            };
            if self.request.version == Version::V1 && matches!(value, Value::Unsigned(ber::COUNTER64, _) | Value::Empty(_)) {
                return Err(Stop::NoSuchName(position));
            }
            match found {
                Found::At(cursor) => self.instance(position, cursor, &value)?,
                _ => self.echoed(position, &value)?,
            }
        }
        Ok(())
    }

    /// Writes the instance at the cursor, or the end of the view under the `last` name; returns what was written.
    #[inline]
    fn next(&mut self, position: usize, mut cursor: Option<Cursor>, last: Option<Cursor>) -> Result<Option<Cursor>, Stop> {
        while let Some(at) = cursor {
            let value = self.view.value(at);
            if self.request.version == Version::V1 && matches!(value, Value::Unsigned(ber::COUNTER64, _)) {
                cursor = self.view.step(at);
                continue;
            }
            self.instance(position, at, &value)?;
            return Ok(Some(at));
        }
        if self.request.version == Version::V1 {
            return Err(Stop::NoSuchName(position));
        }
        let end = Value::Empty(ber::END_OF_MIB_VIEW);
        match last {
            Some(last) => self.instance(position, last, &end)?,
            None => self.echoed(position, &end)?,
        }
        Ok(None)
    }

    fn bulk(&mut self, repeaters: &mut Vec<Repeater>) -> Result<(), Stop> {
        let (view, request) = (self.view, self.request);
        let single = request.non_repeaters.min(request.len());
        for position in 0..single {
            self.next(position, view.after(request.arcs(position)), None)?;
        }
        repeaters.clear();
        repeaters.extend((single..request.len()).map(|position| Repeater { next: view.after(request.arcs(position)), last: None }));
        for _ in 0..request.max_repetitions {
            let mut alive = false;
            for (offset, repeater) in repeaters.iter_mut().enumerate() {
                if let Some(written) = self.next(single + offset, repeater.next, repeater.last)? {
                    alive = true;
                    *repeater = Repeater { next: view.step(written), last: Some(written) };
                } else {
                    repeater.next = None;
                }
            }
            if !alive {
                break;
            }
        }
        Ok(())
    }

    #[inline]
    fn instance(&mut self, position: usize, cursor: Cursor, value: &Value<'_>) -> Result<(), Stop> {
        let view = self.view;
        if !self.response.binding(view.oid_len(cursor), |out| view.put_oid(cursor, out), value) {
            return Err(Stop::Full);
        }
        self.bindings += 1;
        if let (Some(series), Some(number)) = (view.series(cursor), value.number())
            && ledger::asked_for(series.object, self.request.arcs(position))
        {
            self.noted.push(Noted { series, value: number });
        }
        Ok(())
    }

    fn echoed(&mut self, position: usize, value: &Value<'_>) -> Result<(), Stop> {
        let octets = self.request.octets(position, self.datagram);
        if !self.response.binding(octets.len(), |out| out.extend_from_slice(octets), value) {
            return Err(Stop::Full);
        }
        self.bindings += 1;
        Ok(())
    }
}
