"""Serves a page on which photographs are segmented: drop one, look, compare, download.

    python -m massformer_jax.demo --checkpoint DIR [--port PORT]

Open the address that it prints in a browser; Ctrl-C ends it. It answers this machine alone, unless
--host says otherwise. Photographs are kept in memory, the newest few, and nothing is written.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from massformer_jax import command
from massformer_jax.errors import InputError


def _parser() -> argparse.ArgumentParser:
    from massformer_jax.inference.flags import add_ask

    parser = command.parser("massformer_jax.demo", __doc__)
    command.add_network(parser)
    parser.add_argument("--port", type=int, default=8000, help="0 for any port that is free")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets everybody in your network use the page",
    )
    parser.add_argument(
        "--resolution",
        default="native",
        help="size at which the network sees a photograph: native (as it is), release (as large as "
        "fits into 4096x3072), or HxW (as large as fits into H rows and W columns)",
    )
    parser.add_argument(
        "--window",
        default="",
        metavar="HxW",
        help="show windows of H rows and W columns, which takes less memory (default: the whole "
        "photograph at once)",
    )
    add_ask(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command until Ctrl-C and returns its exit status."""
    args = _parser().parse_args(argv)
    return command.run(lambda: _serve(args))


def _serve(args: argparse.Namespace) -> None:
    import jax

    from massformer_jax import compilation
    from massformer_jax.demo.server import Server
    from massformer_jax.demo.studio import COARSE_COLUMNS, COARSE_ROWS, Studio
    from massformer_jax.inference.protocol import Protocol, network_size
    from massformer_jax.inference.segmenter import Segmenter
    from massformer_jax.models.weights import load_weights

    if not 0 <= args.port <= 65535:
        raise InputError(f"--port is {args.port}; use a number from 0 to 65535")
    # Wrong values are said before the weights are read, which takes longer.
    Protocol(resolution=args.resolution, window=args.window, ask=args.ask)
    compilation.keep_compiled(args.compilation_cache)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    weights = load_weights(args.checkpoint, device, step=args.step)
    network = {"dtype": args.dtype, "devices": args.devices, "ask": args.ask}
    segmenter = Segmenter(weights, resolution=args.resolution, window=args.window, **network)
    # A photograph that is small already is enlarged for nothing, but shrunk if all are.
    coarse = COARSE_ROWS, COARSE_COLUMNS
    shrunk = network_size(*coarse, args.resolution) < coarse
    # Both use the same arrays: what is on a device is not placed there again.
    preview = Segmenter(weights, resolution=args.resolution if shrunk else "native", **network)
    studio = Studio(preview, segmenter)
    with Server(args.host, args.port, studio, str(args.checkpoint)) as server:
        print(f"Open {server.address} in a browser; Ctrl-C ends this.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            if studio.busy:
                # The network cannot be interrupted, and Python would wait for it.
                command.say_beside_output("interrupted")
                os._exit(command.INTERRUPTED)
            raise


if __name__ == "__main__":
    sys.exit(main())
