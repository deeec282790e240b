// Package docker checks docker/docker-compose.yml where there is no docker: the file as such, read by the library that
// `docker compose` itself reads it with, and the members it describes, started as processes with the flags they have
// there. That leaves to docker only what docker does: .ci/run starts the file for real on machines that can.
package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/PumpkinSeed/locker/internal/etcdtest"
	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"go.yaml.in/yaml/v3"
)

const file = "../../docker/docker-compose.yml"

// published are the ports of the host, all on 127.0.0.1, at which clients find the members.
var published = map[string]string{"etcd0": "2379", "etcd1": "2380", "etcd2": "2381"}

func load(t *testing.T) *types.Project {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithEnvFiles(), cli.WithDotEnv)
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	require.Len(t, project.Services, len(published))
	return project
}

func TestFile(t *testing.T) {
	project := load(t)
	require.Equal(t, "locker", project.Name)

	for name, service := range project.Services {
		require.Equal(t, "gcr.io/etcd-development/etcd:v"+version.Version, service.Image, "docker and the tests use one version")

		require.Equal(t, types.RestartPolicyUnlessStopped, service.Restart, "two members of three that stay away end all locks")

		require.Len(t, service.Ports, 1)
		require.Equal(t, "127.0.0.1", service.Ports[0].HostIP, "nobody but this host may come in: there is no password")
		require.Equal(t, published[name], service.Ports[0].Published)
		require.EqualValues(t, 2379, service.Ports[0].Target)

		require.Len(t, service.Volumes, 1)
		require.Equal(t, types.VolumeTypeVolume, service.Volumes[0].Type)
		require.Contains(t, project.Volumes, service.Volumes[0].Source)
		require.Contains(t, service.Command, "--data-dir="+service.Volumes[0].Target+"/"+name)

		require.Contains(t, service.Command, "--advertise-client-urls=http://127.0.0.1:"+published[name],
			"a client on the host that asks for the members must get addresses that it can reach")

		require.NotNil(t, service.HealthCheck)
		require.EqualValues(t, []string{"CMD", "/usr/local/bin/etcdctl", "endpoint", "health"}, service.HealthCheck.Test)
	}
}

// docker-compose 1.29 refuses what came later at the top of the file: name, for one, is why docker/.env is there.
func TestFileSuitsOldCompose(t *testing.T) {
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	var top map[string]any
	require.NoError(t, yaml.Unmarshal(content, &top))
	for key := range top {
		require.True(t, key == "services" || key == "volumes" || strings.HasPrefix(key, "x-"), "%s at the top", key)
	}
}

// TestMembersFormACluster gives each member what docker would: a place for its data, addresses inside, which are
// wildcards, and the addresses by which the others (its name) and the host (the published port) reach it. Nothing
// else of its flags is touched.
func TestMembersFormACluster(t *testing.T) {
	project := load(t)
	var onHost, outside []string
	inside := map[string][]string{}
	for name := range project.Services {
		client, peer := "http://"+freeAddress(t), "http://"+freeAddress(t)
		onHost = append(onHost, client)
		outside = append(outside, "http://127.0.0.1:"+published[name], client, "http://"+name+":2380", peer)
		inside[name] = []string{"http://0.0.0.0:2379", client, "http://0.0.0.0:2380", peer, "/var/lib/etcd", t.TempDir()}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, service := range project.Services {
		require.Equal(t, "/usr/local/bin/etcd", service.Command[0], "the image has no entrypoint")
		here := strings.NewReplacer(append(inside[name], outside...)...)
		var flags []string
		for _, flag := range service.Command[1:] {
			flags = append(flags, here.Replace(flag))
		}
		ctx = start(t, ctx, name, flags)
	}

	for _, url := range onHost {
		cli := etcdtest.Connect(t, []string{url})
		_, err := cli.Get(ctx, "health") // this is what `etcdctl endpoint health` does
		require.NoError(t, err, "the health check of %s: %v", url, context.Cause(ctx))
		_, err = cli.Put(ctx, "written/"+url, "")
		require.NoError(t, err)
	}
	for _, url := range onHost {
		cli := etcdtest.Connect(t, []string{url})
		written, err := cli.Get(ctx, "written/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		require.NoError(t, err)
		require.EqualValues(t, len(onHost), written.Count, "what is written through any member is read through each")
		require.NoError(t, cli.Sync(ctx))
		require.ElementsMatch(t, onHost, cli.Endpoints(), "a client that knows one member finds the others, on the host")
	}
}

// asMember in the environment makes this test program an etcd server.
const asMember = "LOCKER_TEST_ETCD_MEMBER"

func TestMain(m *testing.M) {
	if os.Getenv(asMember) != "" {
		go func() { // a member outlives no test, however that ends
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
		etcdmain.Main(os.Args)
		return
	}
	etcdtest.Main(m)
}

// start starts a member and returns a ctx that ends when it does.
func start(t *testing.T, ctx context.Context, name string, flags []string) context.Context {
	var log bytes.Buffer // etcd's; to be read when it has ended
	member := exec.Command(os.Args[0], flags...)
	member.Env = append(os.Environ(), asMember+"=1")
	member.Stdout, member.Stderr = &log, &log
	stdin, err := member.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, member.Start())

	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := member.Wait()
		cancel(fmt.Errorf("%s has ended: %w\n%s", name, err, log.Bytes()))
	}()
	t.Cleanup(func() {
		require.NoError(t, stdin.Close())
		<-ended
	})
	return ctx
}

// freeAddress finds a loopback port below those that systems hand out by themselves, so that no outgoing connection
// takes it before the member does.
func freeAddress(t *testing.T) string {
	for {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000)))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		require.NoError(t, err)
		require.NoError(t, listener.Close())
		return listener.Addr().String()
	}
}
