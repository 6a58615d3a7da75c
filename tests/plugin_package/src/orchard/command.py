"""A command that trains without exporting: `detloom harvest DATA key=value...`."""

import detloom


def add_arguments(parser):
    parser.add_argument("data")
    parser.add_argument("values", nargs="*", metavar="KEY=VALUE")


def run(args):
    host = detloom.discover()
    values = dict(value.split("=", 1) for value in args.values)
    layer = detloom.mapping_layer({"data.local.path": args.data, "export.format": [], **values})
    config = detloom.resolve(host, [layer])
    code = detloom.train_run(config, host)
    print("harvested")
    return code


@detloom.hookimpl
def detloom_commands():
    yield detloom.CommandSpec(name="harvest", summary="trains", add_arguments=add_arguments, run=run)
