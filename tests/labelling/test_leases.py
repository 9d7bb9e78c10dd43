"""Which window holds which image, by a clock of one's own."""

from alprune.labelling.web.leases import LEASE_S, Leases


def test_windows_get_images_of_their_own():
    leases = Leases()
    leases.share("a", range(6).__contains__, range(6), most=2)
    leases.share("b", range(6).__contains__, range(6), most=2)
    assert (leases.of("a"), leases.of("b")) == ((0, 1), (2, 3))
    leases.keep_fronts()  # what people look at stays
    assert (leases.of("a"), leases.of("b")) == ((0,), (2,))
    leases.share("b", range(6).__contains__, range(6), most=3)
    assert leases.of("b") == (2, 1, 3)


def test_a_silent_window_loses_its_images_after_its_time_and_not_before():
    now = [0.0]
    leases = Leases(lambda: now[0])
    leases.hear("a")
    leases.share("a", range(2).__contains__, range(2), most=2)
    now[0] = LEASE_S
    assert leases.hear("b") == 2 and leases.of("a") == (0, 1)
    now[0] += 1.0
    assert leases.hear("b") == 1 and leases.of("a") == ()
    leases.share("b", range(2).__contains__, range(2), most=2)
    assert leases.of("b") == (0, 1)


def test_a_closed_window_gets_nothing_by_requests_that_were_on_their_way():
    leases = Leases()
    leases.hear("a")
    leases.share("a", range(3).__contains__, range(3), most=3)
    leases.close("a")
    assert leases.hear("a") == 0
    leases.put("a", 0, [1])
    assert leases.hear("b") == 1 and leases.of("a") == ()
    leases.share("b", range(3).__contains__, range(3), most=3)
    assert leases.of("b") == (0, 1, 2)
