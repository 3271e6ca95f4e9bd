def measure():
    return 1024, 0, (0, 0, )

def views(at):
    return (at(0, torch.float32, (8, 32), (32, 1), 0), at(1, torch.float32, (8, 4), (4, 1), 0), )

def call(args):
    x, w, v, = args
    args.clear()
    try: arena = _arenas.pop()
    except IndexError: arena = _new_arena()
    T, _, v1, v3, = arena.get(_me) or _fit(arena)
    torch.mm(x, w, out=v1)
    del w, x
    # v2 = k0(v1)
    v2 = _empty((8, 32), (32, 1), torch.float32)
    if e := _s0(T, _threads(), v2): _fail(0, e)
    torch.mm(v2, v, out=v3)
    del v
    # v4 = k1(v3)
    v4 = _empty((8, 4), (4, 1), torch.float32)
    if e := _s1(T, v4): _fail(1, e)
    if len(_arenas) < 4: _arenas.append(arena)
    return [v4, v2]
