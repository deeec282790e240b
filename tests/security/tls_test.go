package security

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return authority{cert, key}
}

// issue signs a certificate for servers and clients on this machine.
func (a authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func writePEM(t *testing.T, dir, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

// serverFlags are those of an etcd that shows a certificate, and wants to see one.
func (a authority) serverFlags(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	cert := a.issue(t, "etcd")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(t, err)
	return []string{
		"--cert-file=" + writePEM(t, dir, "cert.pem", "CERTIFICATE", cert.Certificate[0]),
		"--key-file=" + writePEM(t, dir, "key.pem", "PRIVATE KEY", key),
		"--trusted-ca-file=" + writePEM(t, dir, "ca.pem", "CERTIFICATE", a.cert.Raw),
		"--client-cert-auth",
	}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ours, foreign := newAuthority(t), newAuthority(t)
	cluster := startCluster(t, ours.serverFlags(t)...)
	with := func(pool *x509.CertPool, certs ...tls.Certificate) *clientv3.Client {
		return connect(t, clientv3.Config{Endpoints: cluster.Endpoints(), TLS: &tls.Config{RootCAs: pool, Certificates: certs}})
	}
	cli := with(ours.pool(), ours.issue(t, "alice"))
	useAll(t, newLocker(t, cli, ttl), newLocker(t, cli, ttl), newName("name"))
	require.Empty(t, keys(t, cli))

	t.Run("refused", func(t *testing.T) {
		for what, test := range map[string]struct {
			cli  *clientv3.Client
			says string // nothing for sure where the server refuses: it may close the connection before the reason is read
		}{
			"no certificate":      {with(ours.pool()), ""},
			"a foreign one":       {with(ours.pool(), foreign.issue(t, "alice")), ""},
			"of a foreign server": {with(foreign.pool(), ours.issue(t, "alice")), "unknown authority"},
		} {
			t.Run(what, func(t *testing.T) {
				t.Parallel()
				start := time.Now()
				c, err := locker.NewFromClient(context.Background(), test.cli, 5)
				require.Error(t, err)
				require.Less(t, time.Since(start), soon)
				require.ErrorContains(t, err, test.says)
				require.ErrorIs(t, c.Lock("name", "value", nil).Err, locker.ErrClosed)
			})
		}
	})
	require.Empty(t, keys(t, cli))
}

// A certificate names its user, who needs no password then.
func TestUserOfACertificate(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t)
	cluster := startCluster(t, ours.serverFlags(t)...)
	of := func(user string) *clientv3.Client {
		return connect(t, clientv3.Config{Endpoints: cluster.Endpoints(),
			TLS: &tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{ours.issue(t, user)}}})
	}
	root := of("root")
	ctx := t.Context()
	for _, user := range []string{"root", "alice"} {
		_, err := root.UserAdd(ctx, user, password(user))
		require.NoError(t, err)
		_, err = root.RoleAdd(ctx, user)
		require.NoError(t, err)
		_, err = root.UserGrantRole(ctx, user, user)
		require.NoError(t, err)
	}
	r := prefix("alice/")
	_, err := root.RoleGrantPermission(ctx, "alice", r.key, r.end, clientv3.PermissionType(clientv3.PermReadWrite))
	require.NoError(t, err)
	_, err = root.AuthEnable(ctx)
	require.NoError(t, err)

	alice := of("alice")
	a, b := newLocker(t, alice, ttl), newLocker(t, alice, ttl)
	useAll(t, a, b, newName("alice/"))
	require.ErrorIs(t, a.Lock("bob/1", "value", nil).Err, rpctypes.ErrPermissionDenied)
	require.Empty(t, keys(t, root))
}
