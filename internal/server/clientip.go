package server

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// clientAddr returns the client's address: that of the connection or, behind a trusted
// proxy, the last one in X-Forwarded-For that is not a trusted proxy's. It is invalid on a
// Unix socket.
func (s *Server) clientAddr(r *http.Request) netip.Addr {
	addr := parseAddr(r.RemoteAddr)
	forwarded := r.Header["X-Forwarded-For"]
	for i := len(forwarded) - 1; i >= 0; i-- {
		for rest := forwarded[i]; rest != ""; {
			if !contains(s.o.TrustedProxies, addr) {
				return addr
			}
			comma := strings.LastIndexByte(rest, ',')
			last := rest[comma+1:]
			rest = rest[:max(comma, 0)]
			if last = strings.TrimSpace(last); last == "" {
				continue
			}
			hop := parseAddr(last)
			if !hop.IsValid() {
				return addr // the header is not an address
			}
			addr = hop
		}
	}
	return addr
}

// addrOf returns the IP address of a, or the zero Addr if a has none.
func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	return parseAddr(a.String())
}

// parseAddr reads an IP address, with or without a port. It returns an invalid address if
// s is something else.
func parseAddr(s string) netip.Addr {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

func contains(nets []netip.Prefix, a netip.Addr) bool {
	for _, n := range nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}
