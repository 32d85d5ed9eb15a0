"""Real processes that communicate by gloo."""

import multiprocessing
import traceback

from torch import distributed


def on_ranks(ranks, work, folder):
    """Return ``work(rank)`` of each rank, or the name and message of its exception, in forked processes."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def main(rank):
        distributed.init_process_group("gloo", init_method=f"file://{folder}/meet{ranks}", rank=rank, world_size=ranks)
        distributed.barrier()  # a rank that ends its group at once would break the connections of another that starts
        try:
            queue.put((rank, work(rank)))
        except Exception as error:
            queue.put((rank, f"{type(error).__name__}: {traceback.format_exception_only(error)[-1].strip()}"))
        distributed.destroy_process_group()

    processes = [context.Process(target=main, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    out = dict(queue.get(timeout=200) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [out[rank] for rank in range(ranks)]
