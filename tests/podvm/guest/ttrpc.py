# SPDX-License-Identifier: Apache-2.0
"""As much of ttrpc and protobuf as the clients of the checks need."""


def field(number, data):
    """A field of bytes in a protobuf message."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(number):
    """A number as protobuf writes it."""
    text = b""
    while True:
        number, low = divmod(number, 128)
        text += bytes([low | (128 if number else 0)])
        if not number:
            return text


def fields(message):
    """The fields of a protobuf message: bytes and numbers."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    found = {}
    while at < len(message):
        key = number()
        size = number()
        if key & 7 == 2:
            found[key >> 3] = message[at : at + size]
            at += size
        else:
            found[key >> 3] = size
    return found


def receive(connection, size):
    """So many bytes from a connection."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError("closed")
        data += part
    return data


def request(stream, service, method, message, deadline=0):
    """The frame of a request, with a deadline in seconds if there is one."""
    body = field(1, service.encode()) + field(2, method.encode()) + field(3, message)
    if deadline:
        body += varint(4 << 3) + varint(deadline * 10**9)
    return len(body).to_bytes(4, "big") + stream.to_bytes(4, "big") + b"\1\0" + body


def answer(connection):
    """The next answer: its fields, or the text of a refusal."""
    return answer_of_any(connection)[1:]


def answer_of_any(connection):
    """The next answer, of whatever stream: the stream, and its fields or the text of a refusal."""
    header = receive(connection, 10)
    response = fields(receive(connection, int.from_bytes(header[:4], "big")))
    stream = int.from_bytes(header[4:8], "big")
    status = fields(response.get(1, b""))
    if status.get(1):
        return stream, None, status.get(2, b"").decode()
    return stream, fields(response.get(2, b"")), ""
