"""Bytes on disk: durable writes, files of JSON lines, streams of tensors."""
