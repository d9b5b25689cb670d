"""Marks in images seen that a run passes, spread so that a run of any length has a bounded number of them."""


def passed(images_seen: int, every: int | None, batch: int) -> bool:
    """Whether the last step, of `batch` images, passed a multiple of `every` images."""
    return every is not None and images_seen % every < batch


def spacing(every: int, images_seen: int, most: int) -> int:
    """`every`, doubled until at most `most` multiples of it fit into `images_seen`."""
    while images_seen > most * every:
        every *= 2
    return every
